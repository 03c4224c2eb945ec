"""Reads adapters from the artifact store into host memory: versions by their digest, mixes by their recipe."""

from __future__ import annotations

from collections.abc import Callable

import torch

from multiflora_adapters.base_model import BaseModel
from multiflora_adapters.device.copies import pinned
from multiflora_adapters.dora.norms import SumSquares, alone
from multiflora_adapters.mixes.dividing import divided
from multiflora_adapters.mixes.mixing import MixError, mix_adapters
from multiflora_adapters.mixes.recipe import read_mix
from multiflora_adapters.report import AdapterError, error
from multiflora_adapters.store import ArtifactStore
from multiflora_adapters.weights import BaseWeight, HostAdapter, load_adapter


class AdapterLoader:
    """Called with a digest, on the reader's thread. Raises AdapterError, or OSError when a file cannot be read.

    base: whole. part: what is served of it here, which is less where it is divided among ranks. base_weight, base_bias,
    is_base_exact: see `load_adapter`. dtype: that adapters are served in. device: that they are copied to. max_rank: of
    a mix. max_matrix_bytes: of an adapter's own embedding and head, and of its LoRA on experts.
    """

    def __init__(
        self,
        store: ArtifactStore,
        base: BaseModel,
        part: BaseModel,
        base_weight: BaseWeight,
        base_bias: BaseWeight,
        is_base_exact: Callable[[str], bool],
        dtype: torch.dtype,
        device: torch.device,
        max_rank: int,
        max_matrix_bytes: int,
    ) -> None:
        self._store = store
        self._base = base
        self._part = part
        self._base_weight = base_weight
        self._base_bias = base_bias
        self._is_base_exact = is_base_exact
        self._dtype = dtype
        self._device = device
        self._max_rank = max_rank
        self._max_matrix_bytes = max_matrix_bytes

    def __call__(self, digest: str, sum_squares: SumSquares = alone) -> HostAdapter:
        """sum_squares: see `load_adapter`."""
        mix = read_mix(digest)
        if mix is None:
            adapter = self._load_version(digest, self._dtype, sum_squares)
        else:
            # Parts are summed in float32, so that a mix is rounded once.
            parts = [self._load_whole(part.digest, torch.float32) for part in mix.parts]
            adapter = divided(mix_adapters(digest, mix, parts, self._base, self._dtype, self._max_rank), self._part)
            sum_squares({})
        if adapter.own_bytes > self._max_matrix_bytes:
            raise AdapterError(
                error(
                    "memory",
                    f"The adapter's own embedding, head and LoRA on experts take {adapter.own_bytes} bytes of the "
                    f"device, of which {self._max_matrix_bytes} are set aside for all adapters.",
                    hint=f"Start the server with --adapter-matrix-memory {adapter.own_bytes} or more.",
                )
            )
        # From pinned memory a GPU copies by itself, beside the step.
        return adapter if self._device.type == "cpu" else pinned(adapter)

    def _load_version(self, digest: str, dtype: torch.dtype, sum_squares: SumSquares) -> HostAdapter:
        return load_adapter(
            self._store.path(digest),
            self._base,
            dtype,
            self._base_weight,
            base_bias=self._base_bias,
            is_base_exact=self._is_base_exact,
            digest=digest,
            part=self._part,
            sum_squares=sum_squares,
        )

    def _load_whole(self, digest: str, dtype: torch.dtype) -> HostAdapter:
        """All of an adapter for a mix. What would need all of the base's weights cannot be mixed either way."""
        if self._part is self._base:
            return self._load_version(digest, dtype, alone)

        def base_weight(site: str) -> torch.Tensor:
            if site in self._part.sites and self._part.sites[site].part is None:
                return self._base_weight(site)
            message = f"The adapter {digest} has DoRA's magnitudes, biases or base weights: it cannot be mixed."
            raise MixError(error("mix", message))

        folder = self._store.path(digest)
        exact = self._is_base_exact
        return load_adapter(
            folder,
            self._base,
            dtype,
            base_weight,
            base_bias=base_weight,
            is_base_exact=exact,
            digest=digest,
            compared=self._part,
        )
