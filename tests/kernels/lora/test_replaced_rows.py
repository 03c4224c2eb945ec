"""Rows that adapters have instead of the base's, token by token against a matrix with the rows put in."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from multiflora_kernels.lora.batched_lora import LoraSegments
from multiflora_kernels.lora.replaced_rows import has_replaced_rows, replace_embeddings_, replace_logits_
from multiflora_kernels.lora.tiles import build_tiles

VOCAB, HIDDEN = 40, 12
SEGMENTS = LoraSegments.build([2, 5, 6, 9, 9, 12], [1, 3, 0, 4, 2])


@dataclass
class Rows:
    token_ids: torch.Tensor | None
    values: torch.Tensor


@pytest.fixture
def rows() -> dict[int, Rows]:
    """Slot 0 has none."""
    return {
        1: Rows(torch.tensor([0, 3, 17, 39]), torch.randn(4, HIDDEN)),
        2: Rows(torch.tensor([20]), torch.randn(1, HIDDEN)),
        3: Rows(None, torch.randn(VOCAB, HIDDEN)),
        4: Rows(None, torch.randn(VOCAB, HIDDEN)),
    }


def own_matrix(base: torch.Tensor, rows: Rows | None) -> torch.Tensor:
    if rows is None:
        return base
    return rows.values if rows.token_ids is None else base.index_copy(0, rows.token_ids, rows.values)


def owners() -> list[int | None]:
    slots: list[int | None] = [None] * 12
    for begin, end, slot in SEGMENTS.spans():
        slots[begin:end] = [slot] * (end - begin)
    return slots


@pytest.mark.parametrize("segments", [SEGMENTS, replace(SEGMENTS, tiles=build_tiles([2, 12], [1], torch.from_numpy))])
def test_embeddings(rows: dict[int, Rows], segments: LoraSegments) -> None:
    base = torch.randn(VOCAB, HIDDEN)
    token_ids = torch.tensor([0, 3, 0, 39, 18, 5, 17, 20, 3, 20, 39, 0])
    h = base[token_ids]
    replace_embeddings_(h, token_ids, rows, segments)
    expected = [own_matrix(base, rows.get(slot))[token] for slot, token in zip(owners(), token_ids, strict=True)]
    assert torch.equal(h, torch.stack(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits(rows: dict[int, Rows], dtype: torch.dtype) -> None:
    rows = {slot: Rows(own.token_ids, own.values.to(dtype)) for slot, own in rows.items()}
    base, hidden = torch.randn(VOCAB, HIDDEN).to(dtype), torch.randn(12, HIDDEN).to(dtype)
    logits = hidden @ base.t()
    before = logits.clone()
    replace_logits_(logits, hidden, rows, SEGMENTS)
    expected = [
        own_matrix(base, rows.get(slot)).double() @ x.double() for slot, x in zip(owners(), hidden, strict=True)
    ]
    torch.testing.assert_close(logits.double(), torch.stack(expected), rtol=4 * torch.finfo(dtype).eps, atol=1e-5)
    untouched = [slot not in rows for slot in owners()]
    assert torch.equal(logits[untouched], before[untouched])


def test_batches_without_such_adapters_are_told_on_the_host() -> None:
    assert has_replaced_rows([3], SEGMENTS)
    assert not has_replaced_rows([], SEGMENTS)
    assert not has_replaced_rows([7], SEGMENTS)
