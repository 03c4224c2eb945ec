"""Tensors side by side: where they lie, and that one copy does for many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from multiflora_adapters.device import slab
from multiflora_adapters.device.slab import joined, pairs_of, side_by_side

Tensors = list[torch.Tensor]


@dataclass(frozen=True)
class Rows:
    """Tensors of one adapter that belong together."""

    tensors: Tensors

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> Rows:
        # Not in their order.
        return Rows([move(tensor) for tensor in self.tensors[::-1]][::-1])


def memory(num_bytes: int) -> torch.Tensor:
    return torch.full((num_bytes,), 255, dtype=torch.uint8)


def parts() -> dict[str, Rows]:
    tied = Rows([torch.arange(7), torch.randn(7, 3)])
    return {
        "embedding": tied,
        "head": tied,
        "experts": Rows([torch.randn(5, 3).bfloat16(), torch.empty(0, 9), torch.ones(1, dtype=torch.int32)]),
    }


def copied(host: dict[str, Rows], there: dict[str, Rows]) -> int:
    """How many copies it takes."""
    pairs = list(joined(pairs_of(host, there)))
    for source, target in pairs:
        target.copy_(source)
    for name, rows in host.items():
        assert all(torch.equal(a, b) for a, b in zip(rows.tensors, there[name].tensors, strict=True))
    return len(pairs)


def slabs_of(held: dict[str, Rows]) -> int:
    return len({tensor.untyped_storage().data_ptr() for rows in held.values() for tensor in rows.tensors})


def test_what_lies_alike_is_one_copy() -> None:
    loaded = parts()
    host, there = side_by_side(loaded, memory), side_by_side(loaded, memory)
    assert (slabs_of(host), slabs_of(there)) == (1, 1)
    assert there["embedding"] is there["head"]
    assert copied(loaded, host) == 5, "what was read lies apart"
    assert copied(host, there) == 1
    assert all(tensor.storage_offset() * tensor.element_size() % 256 == 0 for tensor in there["experts"].tensors)


@pytest.mark.parametrize(("size", "slabs"), [(1, 5), (512, 3), (1 << 20, 1)])
def test_slabs_are_bounded_but_for_a_larger_tensor(size: int, slabs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slab, "_SLAB_BYTES", size)
    loaded = parts()
    host, there = side_by_side(loaded, memory), side_by_side(loaded, memory)
    copied(loaded, host)
    assert copied(host, there) == slabs


def test_other_shapes_are_copied_one_by_one() -> None:
    """An adapter whose tensors lie in one file's memory, at other places."""
    loaded = parts()
    flat = torch.cat([tensor.float().flatten() for tensor in loaded["experts"].tensors])
    host = {"experts": Rows([flat[:15].view(5, 3), flat[15:]])}
    assert copied(host, side_by_side(host, memory)) == 2
