"""A projection of the decoder with the adapters' part of it. Knows neither layers nor what an adapter's site means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch

from multiflora_engine.models.weights import Projection
from multiflora_kernels.lora.batched_lora import LoraSegments
from multiflora_kernels.lora.fused_linear import (
    FullDelta,
    ShrunkDelta,
    linear_with_full_delta,
    linear_with_lora,
)
from multiflora_kernels.lora.replaced_rows import TokenRows
from multiflora_kernels.lora.shift import lora_shift_
from multiflora_kernels.lora.site import LoraSite
from multiflora_kernels.moe.expert_lora_triton import ExpertSite


class LivePoolSite(LoraSite, Protocol):
    """A site of the adapter pool, read anew at every step."""

    @property
    def active(self) -> bool:
        """Whether any resident adapter touches it."""
        ...

    @property
    def shift(self) -> torch.Tensor | None:
        """float32 [slots, N]: what adapters' biases add; None while no resident adapter has one here."""
        ...

    @property
    def replaced_rows(self) -> Mapping[int, TokenRows]:
        """Slot -> rows of embedding or head that its adapter has instead of the base's."""
        ...

    @property
    def is_allocated(self) -> bool:
        """Whether it has memory that a kernel may be pointed to."""
        ...


class Sites(Protocol):
    """The adapters' pool, as decoders read it (`SlotPool`)."""

    def site(self, name: str, /) -> LivePoolSite:
        """Of a linear, the embedding or the head of the checkpoint."""
        ...

    def experts(self, linear: str, /) -> Mapping[int, LoraSite]:
        """Slot -> its adapter's LoRA on one linear of all experts of a layer, with experts in place of slots; live."""
        ...

    def expert_site(self, linear: str, /) -> ExpertSite:
        """The same for kernels that serve all adapters at once."""
        ...


def is_touched(site: LivePoolSite, lora: LoraSegments) -> bool:
    """Whether a kernel must look at the site. A graph outlives its adapters: there it looks wherever it may."""
    return site.is_allocated if lora.is_static else site.active


class Linear:
    """A projection and the adapters that touch it."""

    def __init__(self, projection: Projection, sites: Sites | None) -> None:
        """sites: gives the adapters' pool site of a checkpoint's linear; None: the base is served alone."""
        self._weight = projection.weight
        self._bias = projection.bias
        self._sites = [] if sites is None else [sites.site(site.name) for site, _, _ in projection.sites]
        self._columns = [(first, end) for _, first, end in projection.sites]

    def __call__(self, x: torch.Tensor, lora: LoraSegments | None) -> torch.Tensor:
        """x: [T, K] -> y: [T, N], complete."""
        y, delta = self.with_shrunk_delta(x, lora)
        if delta is not None:
            delta.add_to_(y)
        return y

    def with_shrunk_delta(self, x: torch.Tensor, lora: LoraSegments | None) -> tuple[torch.Tensor, ShrunkDelta | None]:
        """x: [T, K] -> y: [T, N], and what of the adapters' delta the consumer of y must still add as it reads it."""
        touched = None if lora is None else self._touched(lora)
        if lora is None or touched is None:
            return self._weight.matmul(x, self._bias), None
        y, delta = linear_with_lora(x, self._weight, self._bias, touched, self._columns, lora)
        self._add_shifts_(y, touched, lora)
        return y, delta

    def with_full_delta(self, x: torch.Tensor, lora: LoraSegments | None) -> tuple[torch.Tensor, FullDelta | None]:
        """The same of a projection that is one linear, for a consumer that adds whole rows."""
        touched = None if lora is None else self._touched(lora)
        if lora is None or touched is None:
            return self._weight.matmul(x, self._bias), None
        y, delta = linear_with_full_delta(x, self._weight, self._bias, touched[0], lora)
        self._add_shifts_(y, touched, lora)
        return y, delta

    def _add_shifts_(self, y: torch.Tensor, touched: list[LivePoolSite | None], lora: LoraSegments) -> None:
        """Last, since a magnitude does not scale them; a delta that the consumer adds later commutes with them."""
        for site, (first, end) in zip(touched, self._columns, strict=True):
            if site is not None and (shift := site.shift) is not None:
                lora_shift_(y[:, first:end], shift, lora)

    def _touched(self, lora: LoraSegments) -> list[LivePoolSite | None] | None:
        """The sites that a kernel must look at, in the order of the columns; None when there is not one."""
        touched = [site if is_touched(site, lora) else None for site in self._sites]
        return touched if any(touched) else None
