"""The distinct tokens of one sequence with their output counts, kept up step by step: what penalties need.

Knows nothing of penalties or logits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class SeenTokens:
    """ids [U] int64, in order of first appearance; counts [U] float32, occurrences in the output (0: prompt only)."""

    def __init__(self, prompt_token_ids: list[int]) -> None:
        self._places: dict[int, int] = {token: place for place, token in enumerate(dict.fromkeys(prompt_token_ids))}
        self._ids = np.array(list(self._places), dtype=np.int64)
        self._counts = np.zeros(len(self._ids), dtype=np.float32)
        self._outputs = 0

    def __len__(self) -> int:
        return len(self._places)

    @property
    def ids(self) -> npt.NDArray[np.int64]:
        return self._ids[: len(self)]

    @property
    def counts(self) -> npt.NDArray[np.float32]:
        return self._counts[: len(self)]

    def extend_to(self, output_token_ids: list[int]) -> None:
        """Counts the outputs added since the last call; the list only grows, also across preemptions."""
        for token in output_token_ids[self._outputs :]:
            place = self._places.setdefault(token, len(self._places))
            if place == len(self._ids):
                self._grow()
            self._ids[place] = token
            self._counts[place] += 1
        self._outputs = len(output_token_ids)

    def _grow(self) -> None:
        room = len(self._ids) + 64
        self._ids = np.concatenate([self._ids, np.zeros(room, dtype=np.int64)])
        self._counts = np.concatenate([self._counts, np.zeros(room, dtype=np.float32)])
