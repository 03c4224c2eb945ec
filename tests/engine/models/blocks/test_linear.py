"""Linears and decoders on a weight that is not dense say what its dequantised rows say, with LoRA and DoRA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from tests.engine.models.cases import CONFIG, CPU, batch_of, empty_cache, random_weights
from tests.kernels.linear.cases import int8_of
from tests.kernels.lora.cases import Site, loop, stacked

from multiflora_adapters.base_model import Site as Module
from multiflora_adapters.dora.norms import row_norm
from multiflora_adapters.slots import SlotPool
from multiflora_adapters.weights import HostAdapter, ReplacedRows, SiteWeights
from multiflora_engine.models.blocks.linear import Linear
from multiflora_engine.models.decoder import Decoder
from multiflora_engine.models.rotary import rotary_tables
from multiflora_engine.models.weights import LayerWeights, MixtureWeights, MlpWeights, ModelWeights, Projection
from multiflora_kernels.linear.dense import DenseWeight
from multiflora_kernels.lora.batched_lora import LoraSegments


class LiveSite(Site):
    active = is_allocated = True
    shift = None
    replaced_rows: ClassVar[dict[int, ReplacedRows]] = {}


@pytest.mark.parametrize("dora", [False, True])
@torch.inference_mode()
def test_adapters_on_a_quantised_linear(dora: bool) -> None:
    torch.manual_seed(0)
    sites, columns = stacked(40, [24, 16], dora=dora)
    names = {"q": LiveSite(**vars(sites[0])), "k": LiveSite(**vars(sites[1]))}
    weight, bias, x = int8_of(torch.randn(40, 40)), torch.randn(40), torch.randn(9, 40)
    spans = tuple((Module(name, 40, 1), *span) for name, span in zip(names, columns, strict=True))
    segments = LoraSegments.build([2, 5, 6, 9], [2, 5, 3])
    y = Linear(Projection(weight, bias, spans), SimpleNamespace(site=names.__getitem__))(x, segments)
    base = x.double() @ weight.dequantised_rows(0, 40).double().T + bias.double()
    torch.testing.assert_close(y.double(), loop(base, x, sites, columns, segments, bias), rtol=1e-5, atol=1e-4)


def quantised(weights: ModelWeights) -> tuple[ModelWeights, ModelWeights]:
    """(the layers' products in int8, the same dequantised to dense weights)."""

    def with_kind(kind: Callable[[Projection], Projection]) -> ModelWeights:
        def kinds(weights: LayerWeights | MlpWeights | MixtureWeights, *names: str) -> dict[str, Any]:
            return {name: kind(getattr(weights, name)) for name in names}

        layers = [
            replace(w, **kinds(w, "qkv", "o"), mlp=replace(w.mlp, **kinds(w.mlp, "up", "down"))) for w in weights.layers
        ]
        return replace(weights, layers=tuple(layers))

    def int8(projection: Projection) -> Projection:
        return replace(projection, weight=int8_of(projection.weight.dequantised_rows(0, projection.weight.shape[0])))

    def dense(projection: Projection) -> Projection:
        weight = int8(projection).weight
        return replace(projection, weight=DenseWeight(weight.dequantised_rows(0, weight.shape[0]).contiguous()))

    return with_kind(int8), with_kind(dense)


def dora_adapter(weights: ModelWeights) -> HostAdapter:
    """Rank 3 on two linears, with the norms that the adapters' reader takes of the base's weight."""
    torch.manual_seed(5)
    sites = {}
    for site in CONFIG.layer_sites(1):
        if site.name.endswith(("k_proj", "down_proj")):
            a, b = torch.randn(3, site.in_features), torch.randn(3, site.out_features) * 0.3
            norms = row_norm(weights.base_weight(site.name), a, b)
            sites[site.name] = SiteWeights(a, b, (torch.rand(site.out_features) + 0.5) * 5 / norms)
    return HostAdapter("d" * 64, 3, sites, 0)


@torch.inference_mode()
def test_a_decoder_of_quantised_layers_serves_dora() -> None:
    results = []
    int8, dense = quantised(random_weights())
    assert int8.num_bytes < dense.num_bytes
    for weights in (int8, dense):
        pool = SlotPool(CONFIG.base_model("tiny", "0" * 64), 2, 8, torch.float32, CPU)
        slot = pool.put(dora_adapter(weights))
        assert slot is not None
        decoder = Decoder(CONFIG, weights, [rotary_tables(CONFIG.ropes[0], 64)], pool)
        lora = LoraSegments.build([3, 8], [slot])
        hidden = decoder.forward(batch_of([[4, 9, 2], [4, 9, 2, 8, 1]], [0, 0], lora, logit_lora=lora), empty_cache())
        results.append(decoder.logits(hidden, lora))
    assert (results[0][5] - results[0][2]).abs().max() > 1e-2, "the adapter changes what the base says"
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-3)
