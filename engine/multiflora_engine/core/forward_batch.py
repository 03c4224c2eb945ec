"""What one forward pass of the model is given. Types only."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from multiflora_kernels.attention.plan import QueryBounds
from multiflora_kernels.lora.batched_lora import LoraSegments


@dataclass(frozen=True)
class ForwardBatch:
    """T tokens of S sequences, base sequences first, then adapter by adapter, so that each adapter is one segment.

    Filled by `forward_batch` (or by whoever runs the model on made-up input); nothing changes it.
    token_ids, positions: [T] int64. kv_slots: [T] int64, block * block_size + offset, where each token's KV goes.
    query_starts: [S+1] int32, token ranges of the sequences. context_lens: [S] int32, tokens up to this step's last.
    block_tables: [S, B] int32, the first ceil(context_len / block_size) entries of a row count.
    query_bounds: the least and most tokens of a sequence; in a graph, those of all that it will be replayed for.
    lora: which tokens belong to which slot; None when all are the base's.
    logit_rows: [L] int64, ascending, the tokens whose logits are wanted; None: all T. logit_lora: `lora` of these rows.
    groups: [3, S] int32, decoding sequences that share leading blocks (see `shared_groups`); None: each for itself.
    """

    token_ids: torch.Tensor
    positions: torch.Tensor
    kv_slots: torch.Tensor
    query_starts: torch.Tensor
    context_lens: torch.Tensor
    block_tables: torch.Tensor
    query_bounds: QueryBounds
    lora: LoraSegments | None
    logit_rows: torch.Tensor | None
    logit_lora: LoraSegments | None
    groups: torch.Tensor | None = None
