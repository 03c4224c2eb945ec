"""A tiny random Llama says the same with graphs, without them and on the CPU, for the base, for adapters and for both.

In float32 every token must be the same; in bfloat16 two tokens may be equally likely, so most of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch

from gpu.case import Case, Setting
from gpu.llama import LLAMA_8B, adapter_digest, build, model_config, random_weights
from gpu.steps import Traffic
from multiflora_engine.models.weights import ModelWeights

TINY = LLAMA_8B | {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_SIZES: dict[str, Any] = {
    "kv_cache_memory": 64 << 20,
    "max_num_seqs": 16,
    "max_num_batched_tokens": 512,
    "max_model_len": 2048,
    "max_loras": 8,
    "max_lora_rank": 16,
}
_DEVIATION = 0.2
"""Large enough that the likeliest token stands out, and that an adapter changes it."""

_LENGTHS, _NEW_TOKENS = (1, 15, 16, 17, 300, 64, 63, 100), 24
_LEAST_EQUAL = {torch.float32: 1.0, torch.bfloat16: 0.9}

LOADS: dict[str, list[str | None]] = {
    "base": [None] * len(_LENGTHS),
    "adapters": [adapter_digest(16, number % 3) for number in range(len(_LENGTHS))],
    "mixed": [adapter_digest((8, 16)[number % 2], number) if number % 3 else None for number in range(len(_LENGTHS))],
}

Engines = Callable[[str], Traffic]
"""By what runs them: "graphs", "eager" or "cpu"."""


def cases(setting: Setting) -> Iterator[Case]:
    for dtype in (torch.float32, torch.bfloat16):
        engines = cache(partial(_engine, torch.device(setting.device), dtype))
        for load in LOADS:
            yield Case(f"{str(dtype)[6:]}, {load}", partial(_same, engines, dtype, load), 150)


def _engine(device: torch.device, dtype: torch.dtype, kind: str) -> Traffic:
    model, weights = model_config(TINY), _weights(device, dtype)
    if kind == "cpu":
        there = torch.device("cpu")
        weights = _copied(weights, there)
        return Traffic(build(model, weights, _DEVIATION, **_SIZES, device="cpu", dtype="float32"))
    eager = kind == "eager"
    return Traffic(build(model, weights, _DEVIATION, **_SIZES, device=str(device), enforce_eager=eager))


def _weights(device: torch.device, dtype: torch.dtype) -> ModelWeights:
    return random_weights(model_config(TINY), dtype, device, _DEVIATION)


def _copied(weights: ModelWeights, device: torch.device) -> ModelWeights:
    """The same values in float32 on another device."""
    copy = random_weights(model_config(TINY), torch.float32, device)
    for name, target in copy.targets().items():
        target.tensors[0].copy_(weights.targets()[name].tensors[0])
    return copy


def _same(engines: Engines, dtype: torch.dtype, load: str) -> dict[str, Any]:
    """Raises AssertionError where too many tokens differ."""
    graphs, eager, cpu = (_answers(engines(kind), LOADS[load]) for kind in ("graphs", "eager", "cpu"))
    row = {
        "tokens": sum(map(len, graphs)),
        "graphs_as_eager": _equal(graphs, eager),
        "eager_as_cpu": _equal(eager, cpu),
    }
    if load != "base":
        row["as_the_base"] = _equal(graphs, _answers(engines("graphs"), LOADS["base"]))
    least = _LEAST_EQUAL[dtype]
    assert min(row["graphs_as_eager"], row["eager_as_cpu"]) >= least, f"{row}: {_first_difference(graphs, eager, cpu)}"
    return row


def _answers(traffic: Traffic, adapters: list[str | None]) -> list[list[int]]:
    vocabulary = traffic.built.model.vocab_size
    prompts = [[(31 * i * length + i) % vocabulary for i in range(length)] for length in _LENGTHS]
    names = [traffic.send(prompt, _NEW_TOKENS, adapter) for prompt, adapter in zip(prompts, adapters, strict=True)]
    tokens = traffic.drain()
    return [tokens[name] for name in names]


def _equal(left: list[list[int]], right: list[list[int]]) -> float:
    """The share of answers' tokens up to the first that differs: what follows it has another history."""
    same = 0
    for ours, theirs in zip(left, right, strict=True):
        same += next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), len(ours))
    return round(same / sum(map(len, left)), 4)


def _first_difference(graphs: list[list[int]], eager: list[list[int]], cpu: list[list[int]]) -> str:
    for length, *answers in zip(_LENGTHS, graphs, eager, cpu, strict=True):
        if answers.count(answers[0]) < len(answers):
            return f"prompt of {length}: graphs {answers[0]}, eager {answers[1]}, cpu {answers[2]}"
    return "none"
