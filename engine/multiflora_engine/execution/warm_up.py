"""Small steps before the first request: libraries load, native code and kernels compile, graphs are captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from multiflora_adapters.base_model import BaseModel
from multiflora_adapters.slots import SlotPool
from multiflora_adapters.weights import HostAdapter
from multiflora_adapters.zero_adapter import zero_adapter
from multiflora_engine.core.sequence import Sequence, make_sequences
from multiflora_engine.execution.device import choose_kv_dtype
from multiflora_engine.execution.dummy_batch import Dummy, DummyPass
from multiflora_engine.execution.graphs.decode_graphs import DecodeGraphs
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.decoder import Decoder
from multiflora_engine.models.rotary import model_tables
from multiflora_engine.models.weights import ModelWeights
from multiflora_engine.protocol.config import SizedConfig
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.sampling.sampler import Sampler
from multiflora_kernels.linear.product_triton import DECODE_ROWS, FEW_ROWS

_FEW_TOKENS = 16
_MANY_TOKENS = 64
_RANK = 1
_RARE_ROWS = 16
"""Rank rows: kernels are compiled for pools of a multiple of it."""

_CUT: dict[str, Any] = {"temperature": 1.0, "top_k": 2, "top_p": 0.9, "min_p": 0.01, "seed": 0}
_PARAMS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0, "logprobs": 1},
    _CUT,
    _CUT | {"allowed_token_ids": (0, 1), "logit_bias": {0: 1.0}, "frequency_penalty": 0.5},
)
"""Greedy, random, and random after every edit of the logits: together they run every op of the sampler."""


@torch.inference_mode()
def warm_up(
    dummy: Dummy,
    sampler: Sampler,
    pool: SlotPool,
    model: ModelConfig,
    graphs: DecodeGraphs | None,
    progress: Callable[[int, int], None],
    *,
    compiles_kernels: bool,
    most_tokens: int = _MANY_TOKENS,
) -> None:
    """compiles_kernels: whether kernels are compiled at their first use. most_tokens: of a step. progress(done, total):
    graphs."""
    for tokens in (1, _FEW_TOKENS):
        logits = dummy.logits([None], tokens)
    if compiles_kernels:
        warm_up_sampler(sampler, logits)
        _compile_for_adapters(dummy, pool, model)
        _compile_for_experts(dummy, model, most_tokens)
    if graphs is not None:
        graphs.capture_all(progress)


def warm_up_adapter(model: ModelConfig, dtype: torch.dtype) -> HostAdapter:
    """What `warm_up` puts into a slot; other ranks hold their part of it from the start."""
    sites = [site for layer in model.layers for site in model.layer_sites(layer)]
    return zero_adapter(sites, _RANK, dtype)


def _compile_for_adapters(dummy: Dummy, pool: SlotPool, model: ModelConfig) -> None:
    """Kernels of chunks with few and with many tokens of an adapter; those of decode steps come with the graphs."""
    slot = pool.put(warm_up_adapter(model, dummy.dtype))
    assert slot is not None, "no adapter has been given a slot yet"
    for tokens in (_FEW_TOKENS, _MANY_TOKENS):
        dummy.logits([None, slot], tokens)
    pool.remove(slot)


def _compile_for_experts(dummy: Dummy, model: ModelConfig, most_tokens: int, slot: int | None = None) -> None:
    """Products of experts are compiled for how many tokens each gets on average: few of a chunk that is long. slot: of
    an adapter that touches experts."""
    mixture = model.form.mixture
    if mixture is None:
        return
    for rows in (DECODE_ROWS, FEW_ROWS):
        tokens = min((rows + 1) * mixture.num_experts // mixture.top_k, most_tokens)
        dummy.logits([slot] * -(-tokens // _MANY_TOKENS), _MANY_TOKENS)


@torch.inference_mode()
def compile_for_rare_adapters(config: SizedConfig, model: ModelConfig, weights: ModelWeights, base: BaseModel) -> None:
    """Kernels that only some adapters need: for magnitudes, biases, LoRA on embedding, head and experts. No request
    waits for a compiler when the first of them comes. In pools of their own, gone afterwards: in that of requests, what
    adapters bring into use stays for good."""
    device, dtype = weights.device, weights.dtype
    for has_vectors in (False, True):
        # One layer's experts are as good as all, and much smaller.
        linears = [linear for layer in base.sparse_layers[:1] for linear in layer.linears]
        adapter = zero_adapter(base.sites.values(), _RANK, dtype, has_vectors=has_vectors, linears=linears)
        pool = SlotPool(base, 1, _RARE_ROWS, dtype, device, config.max_lora_rank, adapter.own_bytes)
        decoder = Decoder(model, weights, model_tables(model, _MANY_TOKENS, device), pool)
        kv_dtype = choose_kv_dtype(config.kv_cache_dtype, weights.kv_dtype)
        dummy = DummyPass(decoder, model, config.block_size, _MANY_TOKENS, device, dtype, kv_dtype)
        slot = pool.put(adapter)
        for tokens in (_FEW_TOKENS, _MANY_TOKENS):
            dummy.logits([None, slot], tokens)
        _compile_for_experts(dummy, model, config.max_num_batched_tokens, slot)


def warm_up_sampler(sampler: Sampler, logits: torch.Tensor) -> None:
    """logits: [L, V] as the decoder makes them; their first row is sampled from in every way."""
    sequences = [_sequence(SamplingParams(**params)) for params in _PARAMS]
    rows = logits[:1].repeat(len(sequences), 1)
    sampler.launch(rows, sequences, [0] * len(sequences)).collect()


def _sequence(params: SamplingParams) -> Sequence:
    (sequence,) = make_sequences(GenerateRequest(id="warm-up", prompt_token_ids=[0], params=params), 0)
    return sequence
