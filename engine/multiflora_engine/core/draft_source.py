"""What the scheduler asks of speculation: tokens that may come next. Its implementation is prompt_lookup.py."""

from __future__ import annotations

from typing import Protocol

from multiflora_engine.core.sequence import Sequence


class DraftSource(Protocol):
    """Guesses tokens, which the model verifies: a wrong one costs time and changes no answer."""

    def wants(self, speculation: bool | None) -> bool:
        """Whether a request is drafted for that says so, or leaves it to the configuration (None)."""
        ...

    def draft(self, sequence: Sequence, limit: int, num_running: int) -> list[int]:
        """Up to `limit` tokens that may follow the sequence's; none where verifying them would cost more than it saves.

        num_running: the sequences that the step is shared with, this one included.
        """
        ...

    def is_predicted(self, sequence: Sequence) -> bool:
        """Whether its last draft is of what its request predicted."""
        ...

    def observe(self, num_sequences: int, num_rows: int, seconds: float) -> None:
        """A step took the processor so long for a row of each sequence and one of each drafted token."""
        ...

    def learn(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        """How many of the last draft the model would have chosen itself."""
        ...
