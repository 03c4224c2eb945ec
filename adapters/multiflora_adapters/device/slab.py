"""Tensors side by side in a few pieces of memory: one allocation, and one copy, of many. Knows nothing of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, Self, TypeVar

import torch

_ALIGNMENT = 256
"""Bytes; each tensor starts at a multiple, as allocators have it."""
_SLAB_BYTES = 16 << 20
"""At most, but for a larger tensor. Pinned memory comes in powers of two: of the last slab a part stays unused."""

Memory = Callable[[int], torch.Tensor]
"""So many bytes, uint8, that have not been another's."""
Pair = tuple[torch.Tensor, torch.Tensor]
"""What a copy reads, and where it writes."""


class Movable(Protocol):
    """Some tensors that belong together."""

    @property
    def tensors(self) -> list[torch.Tensor]: ...

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        """The same in other memory: move gives it for each tensor."""
        ...


Part = TypeVar("Part", bound=Movable)


def side_by_side(parts: Mapping[str, Part], memory: Memory) -> dict[str, Part]:
    """Room for parts like these; what one object holds under several names gets it once. Nothing is copied."""
    unique = {id(part): part for part in parts.values()}
    tensors = [tensor for part in unique.values() for tensor in part.tensors]
    places = dict(zip(map(id, tensors), _laid_out(tensors, memory), strict=True))
    moved = {key: part.moved(lambda tensor: places[id(tensor)]) for key, part in unique.items()}
    return {name: moved[id(part)] for name, part in parts.items()}


def pairs_of(parts: Mapping[str, Part], targets: Mapping[str, Part]) -> Iterator[Pair]:
    """Every tensor once, with its place in what `side_by_side` has made of the parts."""
    unique = {id(part): (part, targets[name]) for name, part in parts.items()}
    for part, target in unique.values():
        yield from zip(part.tensors, target.tensors, strict=True)


def joined(pairs: Iterable[Pair]) -> Iterator[Pair]:
    """As few copies as do the same, of targets that `side_by_side` has made: those whose sources lie as they do, in one
    slab, are one."""
    group: list[Pair] = []
    for pair in pairs:
        if group and not _continues(group[-1], pair):
            yield _as_one(group)
            group = []
        group.append(pair)
    if group:
        yield _as_one(group)


def _laid_out(tensors: Sequence[torch.Tensor], memory: Memory) -> Iterator[torch.Tensor]:
    """Room for each, in their order. The same shapes lie at the same places of as many slabs, whatever the memory."""
    rest = list(tensors)
    while rest:
        offsets, end = list[int](), 0
        for tensor in rest:
            if offsets and end + tensor.nbytes > _SLAB_BYTES:
                break
            offsets.append(end)
            end += -(-max(1, tensor.nbytes) // _ALIGNMENT) * _ALIGNMENT  # an empty one has a place, too
        slab = memory(end)
        for tensor, offset in zip(rest, offsets, strict=False):
            yield slab[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        del rest[: len(offsets)]


def _offset(tensor: torch.Tensor) -> int:
    """Bytes from the beginning of its memory."""
    return int(tensor.storage_offset()) * tensor.element_size()


def _continues(before: Pair, pair: Pair) -> bool:
    """Whether both copies may be one. A target's next slab begins anew, which its offset shows."""
    (source, target), (next_source, next_target) = before, pair
    is_same = source.untyped_storage().data_ptr() == next_source.untyped_storage().data_ptr()
    lies_alike = all(_offset(one) == _offset(other) and one.is_contiguous() for one, other in (before, pair))
    return is_same and lies_alike and _offset(next_target) > _offset(target)


def _as_one(group: Sequence[Pair]) -> Pair:
    (first_source, first_target), (last, _) = group[0], group[-1]
    if len(group) == 1:
        return group[0]
    start = _offset(first_source)
    size = _offset(last) + last.nbytes - start
    source, target = (tensor.flatten().view(torch.uint8) for tensor in (first_source, first_target))
    return source.as_strided((size,), (1,), start), target.as_strided((size,), (1,), start)
