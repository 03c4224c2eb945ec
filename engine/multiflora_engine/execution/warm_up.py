"""Small steps before the first request: libraries load, native code and kernels compile, graphs are captured."""

from __future__ import annotations

from collections.abc import Callable

import torch

from multiflora_adapters.slots import SlotPool
from multiflora_adapters.zero_adapter import zero_adapter
from multiflora_engine.execution.decode_graphs import DecodeGraphs
from multiflora_engine.execution.dummy_batch import DummyPass
from multiflora_engine.execution.sampler_warm_up import warm_up_sampler
from multiflora_engine.models.config import ModelConfig
from multiflora_engine.sampling.sampler import Sampler

_FEW_TOKENS = 16
_MANY_TOKENS = 64
_RANK = 1


@torch.inference_mode()
def warm_up(
    dummy: DummyPass,
    sampler: Sampler,
    pool: SlotPool,
    model: ModelConfig,
    graphs: DecodeGraphs | None,
    progress: Callable[[int, int], None],
    *,
    compiles_kernels: bool,
) -> None:
    """compiles_kernels: whether kernels are compiled at their first use. progress(done, total): graphs."""
    for tokens in (1, _FEW_TOKENS):
        logits = dummy.logits([None], tokens)
    if compiles_kernels:
        warm_up_sampler(sampler, logits)
        _compile_for_adapters(dummy, pool, model)
    if graphs is not None:
        graphs.capture_all(progress)


def _compile_for_adapters(dummy: DummyPass, pool: SlotPool, model: ModelConfig) -> None:
    """Kernels of chunks with few and with many tokens of an adapter; those of decode steps come with the graphs."""
    sites = [site for layer in range(model.num_layers) for site in model.layer_sites(layer)]
    slot = pool.put(zero_adapter(sites, _RANK, dummy.dtype))
    assert slot is not None, "no adapter has been given a slot yet"
    for tokens in (_FEW_TOKENS, _MANY_TOKENS):
        dummy.logits([None, slot], tokens)
    pool.remove(slot)
