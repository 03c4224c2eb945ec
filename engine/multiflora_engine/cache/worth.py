"""What a cached block is worth: how likely blocks that were used as often are used again, as far as was seen here.

Knows no blocks, only how many uses they had. After hyperbolic caching (Blankstein et al., ATC 2017) and least hit
density (Beckmann et al., NSDI 2018): what is kept is what has most hits to expect for the time it has been idle.
"""

from __future__ import annotations

COLD = 0
"""Uses of a block that no client has waited for yet: a batch job, a shadow, an eval or a warm-up computed it."""
NEW = 1
"""Used by the sequence that published it alone."""
MOST_USES = 4
"""So many, or more."""
NUM_USES = MOST_USES + 1

# Before anything was seen: so many of 100 new blocks are hit, and so many of those that were hit before.
_PRIOR_NEW, _PRIOR_HIT = 0.3, 0.7
# What was seen counts as much as the prior after a quarter of the pool has come or gone, and half after some pools.
_PRIOR_POOLS, _MEMORY_POOLS = 0.25, 4.0
_LEAST_ODDS = 0.01
# Odds count twice: measured, this keeps what is used again through a loop or a flood that is larger than the pool.
_POWER = 2.0
# More uses are never worth less. What was never hit has at most a quarter of the patience, whatever was seen so far:
# the first prompts of a server say little about those that follow.
_LEAST_GAP = 4.0


class Worth:
    """Of blocks by their uses, from NEW to MOST_USES; what is COLD is worth nothing.

    impatience: [NUM_USES], by which a block's idle time is multiplied to say who goes first.
    """

    def __init__(self, num_blocks: int) -> None:
        prior = max(1.0, _PRIOR_POOLS * num_blocks)
        self._hits = [prior * (_PRIOR_NEW if uses <= NEW else _PRIOR_HIT) for uses in range(NUM_USES)]
        self._ends = [prior] * NUM_USES
        self._decay = 1.0 - 1.0 / (_MEMORY_POOLS * max(1, num_blocks))
        self.impatience = [0.0] * NUM_USES
        for uses in reversed(range(NUM_USES)):
            self._weigh(uses)

    def note_hit(self, uses: int) -> None:
        """A cached block of so many uses was used again."""
        self._hits[uses] = self._hits[uses] * self._decay + 1.0
        self._ends[uses] = self._ends[uses] * self._decay + 1.0
        self._weigh(uses)

    def note_eviction(self, uses: int) -> None:
        """It was given away without another use."""
        self._hits[uses] *= self._decay
        self._ends[uses] = self._ends[uses] * self._decay + 1.0
        self._weigh(uses)

    def _weigh(self, uses: int) -> None:
        impatience = self.impatience
        impatience[uses] = max(_LEAST_ODDS, self._hits[uses] / self._ends[uses]) ** -_POWER
        for fewer in range(MOST_USES - 1, NEW, -1):
            impatience[fewer] = max(impatience[fewer], impatience[fewer + 1])
        impatience[NEW] = max(impatience[NEW], impatience[NEW + 1] * _LEAST_GAP)
