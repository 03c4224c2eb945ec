"""Whole steps of the engine on a random Llama, decode and prefill: how long they take, and what they must at least.

Bytes and FLOPs of a step are counted here; how the card's limits are found out is measure.py's.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from gpu.case import Setting
from gpu.llama import LLAMA_8B, adapter_digest, build, model_config, random_weights
from gpu.measure import Limits
from multiflora_engine.build import BuiltEngine
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams

_WARM_STEPS, _STEPS = 8, 40
_FOREVER = 1 << 10


_SIZES: dict[str, Any] = {
    "kv_cache_memory": 24 << 30,
    "max_num_batched_tokens": 8192,
    "max_model_len": 33000,
}
"""A cache of a fixed size: two engines may stand side by side."""


@dataclass(frozen=True)
class StepCost:
    """What one operation of a step, or several that are alike, must move and compute at least."""

    num_bytes: float
    flops: float


def linear_parameters(model: ModelConfig) -> int:
    """Of all layers' products and the head."""
    sites = [site for layer in range(model.num_layers) for site in model.layer_sites(layer)]
    return sum(site.in_features * site.out_features for site in sites) + model.hidden_size * model.vocab_size


def kv_bytes(model: ModelConfig, tokens: int, itemsize: int) -> int:
    return 2 * model.num_layers * model.kv_size * itemsize * tokens


def adapter_bytes(model: ModelConfig, rank: int, itemsize: int) -> int:
    sites = [site for layer in range(model.num_layers) for site in model.layer_sites(layer)]
    return sum((site.in_features + site.out_features) * rank * itemsize for site in sites)


def decode_costs(
    model: ModelConfig, batch: int, context: int, adapters: int, rank: int, itemsize: int
) -> list[StepCost]:
    """Of the products, of attention, and of the adapters, each used by as many sequences as another."""
    parameters, adapter = linear_parameters(model), adapter_bytes(model, rank, itemsize)
    attention = 4.0 * model.num_layers * model.q_size * batch * context
    adapted = 2.0 * adapter / itemsize * batch if adapters else 0.0
    return [
        StepCost(parameters * itemsize, 2.0 * parameters * batch),
        StepCost(kv_bytes(model, batch * context, itemsize), attention),
        StepCost(adapters * adapter, adapted),
    ]


def prefill_costs(model: ModelConfig, tokens: int, itemsize: int) -> list[StepCost]:
    """Of the layers' products, of the head for one token, and of attention, which is causal: counted by half."""
    head = model.hidden_size * model.vocab_size
    layers = linear_parameters(model) - head
    attention = 2.0 * model.num_layers * model.q_size * tokens * tokens
    return [
        StepCost(layers * itemsize, 2.0 * layers * tokens),
        StepCost(head * itemsize, 2.0 * head),
        StepCost(kv_bytes(model, tokens, itemsize), attention),
    ]


class Traffic:
    """Requests on one engine, made up token by token, each with contents of its own so that nothing is cached."""

    def __init__(self, built: BuiltEngine) -> None:
        self.built = built
        self._serial = 0

    def add(self, prompt_tokens: int, new_tokens: int, adapter: str | None = None) -> str:
        self._serial += 1
        vocabulary = self.built.model.vocab_size
        prompt = [(self._serial * 7919 + 31 * i) % vocabulary for i in range(prompt_tokens)]
        return self.send(prompt, new_tokens, adapter)

    def send(self, prompt: list[int], new_tokens: int, adapter: str | None = None) -> str:
        self._serial += 1
        name = f"request {self._serial}"
        params = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
        request = GenerateRequest(id=name, prompt_token_ids=prompt, params=params, adapter_digest=adapter)
        self.built.engine.add_request(request)
        return name

    def drain(self) -> dict[str, list[int]]:
        """Tokens of all that runs, by request, when all have ended."""
        tokens: dict[str, list[int]] = defaultdict(list)
        while self.built.engine.has_work:
            for delta in self.built.engine.step():
                assert delta.failure is None, delta.failure
                tokens[delta.request_id] += delta.token_ids
        return tokens


def traffic_of(setting: Setting, **options: Any) -> Callable[[], Traffic]:
    """Requests on an engine with Llama 3.1 8B's shapes, which is made when it is first asked for."""

    def start() -> Traffic:
        model, device = model_config(LLAMA_8B | {"num_hidden_layers": setting.layers}), torch.device(setting.device)
        weights = random_weights(model, torch.bfloat16, device)
        return Traffic(build(model, weights, **(_SIZES | options), device=setting.device))

    return cache(start)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def decoding(traffic: Traffic, batch: int, context: int, adapters: int, rank: int) -> Iterator[None]:
    """Requests that are past their prompts and go on for long; at the end they are gone."""
    engine = traffic.built.engine
    digests = [adapter_digest(rank, i % adapters) if adapters else None for i in range(batch)]
    names = [traffic.add(context, _FOREVER, digest) for digest in digests]
    try:
        started: set[str] = set()
        while len(started) < batch:
            started |= {delta.request_id for delta in engine.step()}
        for _ in range(_WARM_STEPS):
            engine.step()
        yield
    finally:
        for name in names:
            engine.abort(name)


def decode_seconds(traffic: Traffic, batch: int, context: int, adapters: int = 0, rank: int = 16) -> float:
    """One step of `batch` sequences about `context` tokens long, in a row of steps as the engine takes them."""
    with decoding(traffic, batch, context - _STEPS // 2, adapters, rank):
        _synchronize()
        began = time.perf_counter()
        for _ in range(_STEPS):
            traffic.built.engine.step()
        _synchronize()
        return (time.perf_counter() - began) / _STEPS


def prefill_seconds(traffic: Traffic, tokens: int) -> float:
    """A prompt that was never read before, from request to first token."""
    traffic.add(tokens, 1)
    began = time.perf_counter()
    traffic.drain()
    return time.perf_counter() - began


def hit_seconds(traffic: Traffic, tokens: int) -> float:
    """The same prompt again: all but its last block is found."""
    prompt = [(7 * i) % traffic.built.model.vocab_size for i in range(tokens)]
    traffic.send(prompt, 1)
    traffic.drain()
    traffic.send(prompt, 1)
    began = time.perf_counter()
    traffic.drain()
    return time.perf_counter() - began


def floor_seconds(costs: Iterable[StepCost], limits: Limits) -> float:
    """Of operations that follow each other: while one of them waits for memory, none computes for another."""
    return sum(max(cost.num_bytes / limits.bandwidth, cost.flops / limits.arithmetic) for cost in costs)


def itemsize(traffic: Traffic) -> int:
    """Of the weights."""
    return 2 if traffic.built.ready.dtype in ("bfloat16", "float16") else 4


def micro(seconds: float) -> float:
    """Microseconds as a row has them."""
    return round(seconds * 1e6, 1)
