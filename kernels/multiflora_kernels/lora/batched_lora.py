"""Batched LoRA: each adapter's tokens of a batch form one segment, and work follows the tokens and ranks present.

Owns what a segment table is. Does not know adapters, files, nor how slots and rank rows are allocated.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from multiflora_kernels.lora.launch import (
    MAX_SITES,
    expand_triton_,
    gather_triton,
    shrink_triton,
    shrunk_empty,
)
from multiflora_kernels.lora.site import LoraSite
from multiflora_kernels.lora.tiles import (
    LoraTiles,
    Table,
    build_tiles,
    static_tiles,
)
from multiflora_kernels.runtime.native import native_function, pointer

MAX_NATIVE_SITES = 4


@dataclass(frozen=True)
class LoraSegments:
    """Which tokens belong to which slot. Tokens are ordered base first, then adapter by adapter.

    The batch builder makes it once a step by `build`, decode graphs once a capture by `static`.
    """

    starts: torch.Tensor  # [G+1] int32: segment g has tokens starts[g]:starts[g+1]; starts[0] is the base's count
    slots: torch.Tensor  # [G] int32
    num_segments: int  # G; in a graph, the most that it can be replayed with
    host_starts: tuple[int, ...]  # `starts` as numbers; empty in a graph
    host_slots: tuple[int, ...]  # `slots` as numbers; empty in a graph
    tiles: LoraTiles | None = None  # the same for kernels on a GPU, where only they are on the device; None on a CPU

    @classmethod
    def build(
        cls, starts: Sequence[int], slots: Sequence[int], upload: Callable[[Table], torch.Tensor] | None = None
    ) -> LoraSegments:
        """starts: G+1 token offsets, ascending; slots: G slot ids. upload: to a GPU, see `build_tiles`; None: a CPU."""
        assert len(starts) == len(slots) + 1, "segment g needs starts[g] and starts[g + 1]"
        return cls(
            torch.tensor(starts, dtype=torch.int32),
            torch.tensor(slots, dtype=torch.int32),
            len(slots),
            tuple(starts),
            tuple(slots),
            None if upload is None else build_tiles(starts, slots, upload),
        )

    @classmethod
    def static(cls, table: torch.Tensor, max_tokens: int, max_segments: int) -> LoraSegments:
        """Segments that a CUDA graph reads anew at every replay from `table`; see `lora_tiles.static_tiles`."""
        unknown = torch.empty(0, dtype=torch.int32)
        return cls(unknown, unknown, max_segments, (), (), static_tiles(table, max_tokens, max_segments))

    @property
    def is_static(self) -> bool:
        """Whether the adapters are known only when the kernels run, so that every site must be visited."""
        return self.tiles is not None and self.tiles.is_static

    def spans(self) -> list[tuple[int, int, int]]:
        """(first token, end token, slot) of every segment."""
        assert not self.is_static, "what a graph will see is not known on the host"
        return list(zip(self.host_starts, self.host_starts[1:], self.host_slots, strict=False))


def lora_linear_reference_(
    y: torch.Tensor,
    x: torch.Tensor,
    sites: Sequence[LoraSite | None],
    columns: Sequence[tuple[int, int]],
    segments: LoraSegments,
    bias: torch.Tensor | None = None,
) -> None:
    """y: [T, N], in place; x: [T, K]; sites[i] acts on columns[i] = (c0, c1) of y; bias: [N], already part of y.

    Semantics, for every segment of slot s with r = ranks[s] > 0 and o = offsets[s], for its tokens t:
    y[t, c0:c1] += (x[t] @ A[o:o+r].T) @ B[o:o+r]; with a magnitude m then y = bias + m[s] * (y - bias).
    All other rows stay as they are, bit for bit. LoRA: arXiv:2106.09685; segments: Punica's SGMV (arXiv:2310.18547);
    DoRA: arXiv:2402.09353. Products in float32, rounded once when added to y.
    """
    for site, (c0, c1) in zip(sites, columns, strict=True):
        if site is None:
            continue
        offsets, ranks = site.offsets.tolist(), site.ranks.tolist()
        for begin, end, slot in segments.spans():
            offset, rank = offsets[slot], ranks[slot]
            if rank == 0 or begin == end:
                continue
            a, b = site.a[offset : offset + rank], site.b[offset : offset + rank]
            wide = torch.promote_types(y.dtype, torch.float32)
            total = y[begin:end, c0:c1].to(wide) + (x[begin:end].to(wide) @ a.to(wide).T) @ b.to(wide)
            if site.magnitude is not None:
                base = torch.zeros((), dtype=wide, device=y.device) if bias is None else bias[c0:c1].to(wide)
                total = base + site.magnitude[slot].to(wide) * (total - base)
            y[begin:end, c0:c1] = total.to(y.dtype)


def lora_embedding_reference_(h: torch.Tensor, token_ids: torch.Tensor, site: LoraSite, segments: LoraSegments) -> None:
    """h: [T, H], in place; token_ids: [T]; site.a: [V, R], site.b: [R, H].

    Semantics, for the tokens t of a segment of slot s with r > 0: h[t] += A[token_ids[t], o:o+r] @ B[o:o+r];
    with a magnitude m then h[t] = m[s] * h[t].
    """
    offsets, ranks = site.offsets.tolist(), site.ranks.tolist()
    for begin, end, slot in segments.spans():
        offset, rank = offsets[slot], ranks[slot]
        if rank == 0 or begin == end:
            continue
        wide = torch.promote_types(h.dtype, torch.float32)
        rows = site.a[token_ids[begin:end], offset : offset + rank].to(wide)
        total = h[begin:end].to(wide) + rows @ site.b[offset : offset + rank].to(wide)
        if site.magnitude is not None:
            total = site.magnitude[slot].to(wide) * total
        h[begin:end] = total.to(h.dtype)


_ARGUMENTS = [struct.Struct(f"5q 5q {8 * sites}q") for sites in range(MAX_NATIVE_SITES + 1)]
"""LoraArgs of native/lora.cpp, by the number of its sites that are filled."""


def _site_arguments(site: LoraSite, columns: tuple[int, int]) -> tuple[int, ...]:
    magnitude = site.magnitude
    stride = 0 if magnitude is None else magnitude.stride(0)
    return (
        site.a.data_ptr(), site.b.data_ptr(), site.offsets.data_ptr(), site.ranks.data_ptr(), pointer(magnitude),
        columns[0], columns[1] - columns[0], stride,
    )  # fmt: skip


def _native_fits(y: torch.Tensor, x: torch.Tensor, sites: Sequence[LoraSite]) -> bool:
    return (
        len(sites) <= MAX_NATIVE_SITES
        and y.dtype == x.dtype == torch.float32
        and y.stride(1) == x.stride(1) == 1
        and all(site.a.dtype == site.b.dtype == torch.float32 for site in sites)
    )


def lora_linear_(
    y: torch.Tensor,
    x: torch.Tensor,
    sites: Sequence[LoraSite | None],
    columns: Sequence[tuple[int, int]],
    segments: LoraSegments,
    bias: torch.Tensor | None = None,
) -> None:
    """y: [T, N] in place, x: [T, K]. All sites of one stacked projection in one call. See `lora_linear_reference_`."""
    present = [(site, span) for site, span in zip(sites, columns, strict=True) if site is not None]
    if not present or segments.num_segments == 0:
        return
    if segments.tiles is not None:
        _lora_linear_triton_(y, x, present, segments.tiles, bias)
        return
    native = native_function("multiflora_lora_linear", "p")
    if native is None or not _native_fits(y, x, [site for site, _ in present]):
        lora_linear_reference_(y, x, sites, columns, segments, bias)
        return
    assert segments.starts.dtype == segments.slots.dtype == torch.int32, "the kernel reads int32"
    arguments = _ARGUMENTS[len(present)].pack(
        y.data_ptr(), x.data_ptr(), pointer(bias), segments.starts.data_ptr(), segments.slots.data_ptr(),
        segments.num_segments, y.stride(0), x.stride(0), x.shape[1], len(present),
        *(value for site, span in present for value in _site_arguments(site, span)),
    )  # fmt: skip
    native(arguments)


def _lora_linear_triton_(
    y: torch.Tensor,
    x: torch.Tensor,
    present: Sequence[tuple[LoraSite, tuple[int, int]]],
    tiles: LoraTiles,
    bias: torch.Tensor | None,
) -> None:
    for first in range(0, len(present), MAX_SITES):
        sites, columns = zip(*present[first : first + MAX_SITES], strict=True)
        values = shrunk_empty(x, sites, tiles)
        shrink_triton(x, sites, tiles, values)
        expand_triton_(y, values, sites, columns, tiles, bias)


def lora_embedding_(h: torch.Tensor, token_ids: torch.Tensor, site: LoraSite, segments: LoraSegments) -> None:
    """h: [T, H] in place: LoRA on the token embedding, once per step. See `lora_embedding_reference_`."""
    if segments.tiles is None:
        lora_embedding_reference_(h, token_ids, site, segments)
        return
    values = gather_triton(token_ids, site, segments.tiles)
    expand_triton_(h, values, [site], [(0, h.shape[1])], segments.tiles, None)
