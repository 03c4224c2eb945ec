"""The tokens that the last step sampled, kept on the device for sequences that go on before the host knows them.

Which row belongs to which sequence is the planner's to know (step_plan.py).
"""

from __future__ import annotations

import torch

from multiflora_engine.core.rank_group import RankGroup
from multiflora_kernels.sampling.ops import gather_tokens


class TokenFeedback:
    """tokens: [max_num_seqs] int64, always at the same address; row i is what the i-th sampling sequence was given.

    ranks: of which the first samples, and the others are told what.
    """

    def __init__(self, max_num_seqs: int, device: torch.device, ranks: RankGroup | None = None) -> None:
        self._tokens = torch.zeros(max_num_seqs, dtype=torch.int64, device=device)
        self._ranks = ranks

    def keep(self, tokens: torch.Tensor) -> None:
        """Remembers a step's tokens [R], in the order of the device's work."""
        # A row whose token could not be chosen (-1) fails when it is collected; until then any token will do.
        torch.clamp(tokens, min=0, out=self._tokens[: len(tokens)])
        self.follow(len(tokens))

    def follow(self, count: int) -> None:
        """On another rank than the first: remembers the `count` tokens that it keeps."""
        if self._ranks is not None:
            self._ranks.follow_first_(self._tokens[:count])

    def resolve(self, token_ids: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:
        """token_ids: [T] int64, sources: [T] int32. Semantics: y[t] = token_ids[t] where the host knows it, else the
        kept token of row sources[t]."""
        return gather_tokens(token_ids, sources, self._tokens)
