"""Rows of embedding and head that an adapter has instead of the base's. Knows neither files nor who owns a slot.

PyTorch on every device, one product for each adapter that has such rows: few have. Not inside a graph, since which
adapters have rows decides what is launched.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import torch

from multiflora_kernels.lora.batched_lora import LoraSegments


class TokenRows(Protocol):
    """token_ids: int64 [n], ascending, or None for a row of every token; values: [n, H]."""

    @property
    def token_ids(self) -> torch.Tensor | None: ...
    @property
    def values(self) -> torch.Tensor: ...


def has_replaced_rows(rows: Collection[int], segments: LoraSegments) -> bool:
    """Whether an adapter of the batch is among these slots; never in a graph, which takes no such batch."""
    return bool(rows) and not segments.is_static and any(slot in rows for slot in segments.host_slots)


def replace_embeddings_(
    h: torch.Tensor, token_ids: torch.Tensor, rows: Mapping[int, TokenRows], segments: LoraSegments
) -> None:
    """h: [T, H], in place; token_ids: [T] int64; rows: by slot.

    Semantics, for the tokens t of a segment of slot s in rows: h[t] = values[i] where ids[i] = token_ids[t].
    """
    for begin, end, slot in segments.spans():
        if slot not in rows:
            continue
        own, tokens = rows[slot], token_ids[begin:end]
        if own.token_ids is None:
            h[begin:end] = own.values[tokens]
            continue
        places = torch.searchsorted(own.token_ids, tokens).clamp(max=len(own.token_ids) - 1)
        is_own = (own.token_ids[places] == tokens)[:, None]
        h[begin:end] = torch.where(is_own, own.values[places], h[begin:end])


def replace_logits_(
    logits: torch.Tensor, hidden: torch.Tensor, rows: Mapping[int, TokenRows], segments: LoraSegments
) -> None:
    """logits: [T, V], in place; hidden: [T, H]; rows: by slot.

    Semantics, for the tokens t of a segment of slot s in rows: logits[t, ids[i]] = values[i] @ hidden[t].
    """
    for begin, end, slot in segments.spans():
        if slot not in rows or begin == end:
            continue
        own, part = rows[slot], logits[begin:end]
        product = (hidden[begin:end] @ own.values.t()).to(logits.dtype)
        if own.token_ids is None:
            part.copy_(product)
        else:
            part.index_copy_(1, own.token_ids, product)
