"""What all layers of one sliding window share in one step of attention. Knows neither queries nor caches."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from multiflora_kernels.attention.plan import AttentionPlan, CascadePlan


@dataclass(frozen=True)
class AttentionStep:
    """S sequences with T queries in all. The decoder makes one for each step and window, and all layers of the window
    take it: what is per step is looked up once, and every path through the op reads the same object."""

    query_starts: torch.Tensor  # [S+1] int32 contiguous: sequence s has the queries query_starts[s]:query_starts[s+1]
    context_lens: torch.Tensor  # [S] int32 contiguous: keys of each sequence, this step's among them
    block_tables: torch.Tensor  # [S, B] int32, rows contiguous: block ids inside the cache; ceil(length / size) count
    scale: float  # of the products of queries and keys
    window: int | None = None  # keys that a query sees, its own among them; None: all before it
    softcap: float | None = None  # scores s become softcap * tanh(s / softcap); None: they stay
    plan: AttentionPlan | CascadePlan | None = None  # from `plan_attention` or `plan_cascade`, of this step and window
    slopes: torch.Tensor | None = None  # [Hq] float32, ALiBi: a score gains slope * (key position - query position)
    rounds: bool = False  # to bfloat16 what products of tiles take, where a CPU has an instruction for that
    groups: torch.Tensor | None = None  # [3, S] int32 contiguous, of a decode without window: see `shared_groups`
