"""How much speculation may still lose: a budget in tokens, which plain decoding fills and wrong drafts empty.

Knows nothing of texts: whatever they are, and however often drafts seemed to pay, what is lost in all stays below the
first allowance and a small share of what was decoded.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class RegretBudget:
    """A unit is what a step takes for one of its sequences' tokens. balance: at first, the allowance.

    share: of each decoded token, what is put aside for drafts. most: beyond it nothing is saved up, so that a long text
    that was easy cannot pay for a long one that is not.
    """

    balance: float
    share: float
    most: float

    def decoded(self, tokens: int) -> None:
        """So many tokens came without drafts, or would have."""
        self._add(self.share * tokens)

    def settle(self, cost: float, gain: float) -> None:
        """A draft was verified whose rows cost so much, and whose accepted tokens need no step of their own."""
        self._add(gain - cost)

    def affordable(self, row_cost: float) -> int:
        """Rows that may be lost now."""
        return max(0, int(self.balance / row_cost))

    def _add(self, tokens: float) -> None:
        self.balance = min(self.most, self.balance + tokens)
