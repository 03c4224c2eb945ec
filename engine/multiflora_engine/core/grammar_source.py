"""What the scheduler asks of grammars: whether a sequence may start. Its implementation is grammar_masks.py."""

from __future__ import annotations

from typing import Protocol

from multiflora_engine.core.sequence import Sequence


class GrammarSource(Protocol):
    """Raises GrammarError (sampling/grammars.py) only from `is_ready`."""

    def begin(self, sequence: Sequence) -> None:
        """A sequence with a grammar has arrived; its compilation begins, if it is not known."""
        ...

    def is_ready(self, sequence: Sequence) -> bool:
        """Whether its grammar is compiled. Raises GrammarError if it cannot be."""
        ...


class GrammarError(ValueError):
    """A grammar that cannot be read, cannot be satisfied, or is too complex; the message says which and where."""
