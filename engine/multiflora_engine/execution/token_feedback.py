"""The tokens that the last step sampled, kept on the device for sequences that go on before the host knows them."""

from __future__ import annotations

from collections.abc import Sequence as Items

import numpy as np
import numpy.typing as npt
import torch

from multiflora_engine.core.sequence import Sequence
from multiflora_engine.core.step import Scheduled
from multiflora_kernels.sampling.ops import gather_tokens

KNOWN = -1
"""The source of a token that the host knows."""


class TokenFeedback:
    """tokens: [max_num_seqs] int64, always at the same address; row i is what the i-th sampling sequence was given."""

    def __init__(self, max_num_seqs: int, device: torch.device) -> None:
        self._tokens = torch.zeros(max_num_seqs, dtype=torch.int64, device=device)
        self._rows: dict[Sequence, int] = {}

    def keep(self, sequences: Items[Sequence], tokens: torch.Tensor) -> None:
        """Remembers a step's tokens [L], in the order of the device's work."""
        # A row whose token could not be chosen (-1) fails when it is collected; until then any token will do.
        torch.clamp(tokens, min=0, out=self._tokens[: len(tokens)])
        self._rows = {sequence: row for row, sequence in enumerate(sequences)}

    def sources(self, entries: Items[Scheduled]) -> npt.NDArray[np.int32]:
        """For each entry, the row of the token that it starts with, or KNOWN."""
        return np.fromiter(
            (self._rows[e.sequence] if e.start == e.sequence.num_tokens else KNOWN for e in entries),
            np.int32,
            len(entries),
        )

    def resolve(self, token_ids: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
        """token_ids: [T] int64, sources: [T] int32. Semantics: y[t] = token_ids[t] where the host knows it, else the
        kept token of row sources[t]."""
        return gather_tokens(token_ids, sources, self._tokens)
