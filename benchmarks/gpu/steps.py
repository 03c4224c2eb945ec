"""Whole steps of the engine on a random Llama: decode and prefill beside their floors, and what adapters add.

Bytes and FLOPs of a step are counted here; how the card's limits are found out is measure.py's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from gpu.llama import adapter_digest
from gpu.measure import Limits, Result
from multiflora_engine.build import BuiltEngine
from multiflora_engine.models.config import ModelConfig
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams

_WARM_STEPS, _STEPS = 8, 40
_FOREVER = 1 << 10


@dataclass(frozen=True)
class StepCost:
    """What a step must move and compute at least."""

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


def decode_cost(model: ModelConfig, batch: int, context: int, adapters: int, rank: int, itemsize: int) -> StepCost:
    parameters = linear_parameters(model)
    moved = parameters * itemsize + kv_bytes(model, batch * context, itemsize)
    return StepCost(moved + adapters * adapter_bytes(model, rank, itemsize), 2.0 * parameters * batch)


def prefill_cost(model: ModelConfig, tokens: int, itemsize: int) -> StepCost:
    """Causal attention counted by half; the head for one token only."""
    layers = linear_parameters(model) - model.hidden_size * model.vocab_size
    attention = 2.0 * model.num_layers * model.q_size * tokens * tokens
    return StepCost((layers + model.hidden_size * model.vocab_size) * itemsize, 2.0 * layers * tokens + attention)


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

    def step_until(self, done: Callable[[], bool]) -> None:
        while not done():
            for delta in self.built.engine.step():
                assert delta.failure is None, delta.failure

    def drain(self) -> None:
        self.step_until(lambda: not self.built.engine.has_work)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def start_decoding(traffic: Traffic, batch: int, context: int, adapters: int, rank: int) -> list[str]:
    """Requests that are past their prompts and go on for long; their names, to abort them by."""
    engine = traffic.built.engine
    digests = [adapter_digest(rank, i % adapters) if adapters else None for i in range(batch)]
    names = [traffic.add(context, _FOREVER, digest) for digest in digests]
    started: set[str] = set()
    while len(started) < batch:
        started |= {delta.request_id for delta in engine.step()}
    for _ in range(_WARM_STEPS):
        engine.step()
    return names


def decode_seconds(traffic: Traffic, batch: int, context: int, adapters: int = 0, rank: int = 16) -> float:
    """One step of `batch` sequences about `context` tokens long, in a row of steps as the engine takes them."""
    engine = traffic.built.engine
    names = start_decoding(traffic, batch, context - _STEPS // 2, adapters, rank)
    _synchronize()
    began = time.perf_counter()
    for _ in range(_STEPS):
        engine.step()
    _synchronize()
    took = (time.perf_counter() - began) / _STEPS
    for name in names:
        engine.abort(name)
    return took


def prefill_seconds(traffic: Traffic, tokens: int) -> float:
    """A prompt nobody has seen, from request to first token."""
    engine = traffic.built.engine
    traffic.add(tokens, 1)
    began = time.perf_counter()
    traffic.drain()
    assert not engine.has_work
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


def result(name: str, shape: str, took: float, cost: StepCost, limits: Limits) -> Result:
    floor = max(cost.num_bytes / limits.bandwidth, cost.flops / limits.arithmetic)
    return Result(name, shape, round(took * 1e6, 1), round(floor * 1e6, 1), round(floor / took, 3))


def decode_results(traffic: Traffic, limits: Limits, batches: list[int], contexts: list[int]) -> Iterator[Result]:
    model, itemsize = traffic.built.model, _itemsize(traffic)
    room = traffic.built.ready.num_blocks * traffic.built.ready.block_size
    for context in contexts:
        for batch in (batch for batch in batches if batch * (context + _STEPS) < room):
            took = decode_seconds(traffic, batch, context)
            cost = decode_cost(model, batch, context, 0, 0, itemsize)
            yield result("decode", f"batch {batch}, context {context}", took, cost, limits)


def prefill_results(traffic: Traffic, limits: Limits, lengths: list[int]) -> Iterator[Result]:
    model, itemsize = traffic.built.model, _itemsize(traffic)
    for tokens in lengths:
        prefill_seconds(traffic, tokens)
        took = prefill_seconds(traffic, tokens)
        yield result("prefill = miss", f"{tokens} tokens", took, prefill_cost(model, tokens, itemsize), limits)
        hit = hit_seconds(traffic, tokens)
        least = StepCost(linear_parameters(model) * itemsize + kv_bytes(model, tokens, itemsize), 0.0)
        yield result("hit", f"{tokens} tokens", hit, least, limits)


@dataclass(frozen=True)
class Tax:
    """What adapters add to a decode step. tax and floor: shares of the base's step."""

    adapters: int
    batch: int
    rank: int
    base_us: float
    us: float
    tax: float
    floor: float


def lora_taxes(traffic: Traffic, rank: int, pairs: list[tuple[int, int]], context: int) -> Iterator[Tax]:
    """pairs: (adapters, batch). The base's own step is measured beside each, on the same engine."""
    model, itemsize = traffic.built.model, _itemsize(traffic)
    for adapters, batch in pairs:
        base = decode_seconds(traffic, batch, context)
        took = decode_seconds(traffic, batch, context, adapters, rank)
        plain = decode_cost(model, batch, context, 0, 0, itemsize).num_bytes
        floor = adapters * adapter_bytes(model, rank, itemsize) / plain
        yield Tax(adapters, batch, rank, round(base * 1e6, 1), round(took * 1e6, 1), round(took / base - 1, 4), floor)


def _itemsize(traffic: Traffic) -> int:
    return 2 if traffic.built.ready.dtype in ("bfloat16", "float16") else 4
