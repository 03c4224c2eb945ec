"""What one forward pass of the model is given. Types only."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from multiflora_kernels.attention.plan import QueryBounds
from multiflora_kernels.lora.batched_lora import LoraSegments


@dataclass(frozen=True)
class ForwardBatch:
    """T tokens of S sequences, base sequences first, then adapter by adapter, so that each adapter is one segment.

    Filled by the executor from a step's arrays, by the decode graphs over their static memory, and by `dummy_batch`;
    nothing changes it.
    """

    token_ids: torch.Tensor
    """[T] int64."""
    positions: torch.Tensor
    """[T] int64, each token's place in its sequence."""
    kv_slots: torch.Tensor
    """[T] int64, block * block_size + offset, where each token's KV goes; -1: nowhere."""
    query_starts: torch.Tensor
    """[S + 1] int32, sequence s has tokens query_starts[s] to query_starts[s + 1]."""
    context_lens: torch.Tensor
    """[S] int32, tokens of each sequence up to this step's last."""
    block_tables: torch.Tensor
    """[S, B] int32, the first ceil(context_len / block_size) entries of a row count."""
    query_bounds: QueryBounds
    """The least and most tokens of a sequence; in a graph, those of all batches that it will be replayed for."""
    lora: LoraSegments | None
    """Which tokens belong to which slot; None when all are the base's."""
    logit_rows: torch.Tensor | None
    """[L] int64, ascending, the tokens that want logits; None: all T."""
    logit_lora: LoraSegments | None
    """`lora` of these L rows."""
    groups: torch.Tensor | None = None
    """[3, S] int32, decoding sequences that share leading blocks (see `shared_groups`); None: each for itself."""
