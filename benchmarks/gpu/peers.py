"""The workloads of inputs.py on one GPU: the engine beside transformers + PEFT, same shapes, same token ids."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import inputs
import peft_baseline
from gpu.llama import adapter_digest
from gpu.steps import Traffic
from multiflora_engine.build import BuiltEngine

WORKLOADS = ("w1-0", "w1-1", "w1-8", "w1-32", "w2-0", "w2-8", f"w3-{inputs.ADAPTERS}")


@dataclass(frozen=True)
class Comparison:
    """Output tokens a second of both, and how many times faster the engine is."""

    workload: str
    tokens_per_second: float
    baseline_tokens_per_second: float
    ratio: float


def _rank(name: str) -> int:
    """As inputs.py makes them: even numbers have rank 8, odd ones 16."""
    return 16 if int(name[1:]) % 2 else 8


def engine_speed(built: BuiltEngine, requests: list[dict[str, Any]]) -> float:
    """Output tokens a second with all requests known at the start."""
    traffic = Traffic(built)
    began = time.perf_counter()
    for request in requests:
        name = request["adapter"]
        digest = None if name is None else adapter_digest(_rank(name), int(name[1:]))
        traffic.send(request["prompt"], request["max_tokens"], digest)
    traffic.drain()
    wall = time.perf_counter() - began
    return float(sum(request["max_tokens"] for request in requests) / wall)


def shifted(requests: list[dict[str, Any]], by: int) -> list[dict[str, Any]]:
    """Other token ids in the same pattern, so that no run finds prefixes of another."""

    def moved(prompt: list[int]) -> list[int]:
        return [(token + by) % inputs.VOCABULARY for token in prompt]

    return [request | {"prompt": moved(request["prompt"])} for request in requests]


def engine_speeds(built: BuiltEngine, folder: Path) -> dict[str, float]:
    """Of the second run of each workload: the first one compiles kernels and loads adapters."""
    speeds = {}
    for number, name in enumerate(WORKLOADS):
        requests = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        engine_speed(built, shifted(requests, 2 * number))
        speeds[name] = engine_speed(built, shifted(requests, 2 * number + 1))
    return speeds


def baseline_model(shape: dict[str, Any], device: torch.device, dtype: torch.dtype) -> Any:
    """transformers' Llama of this shape with random weights and 32 PEFT adapters on all seven linears."""
    fields = {key: value for key, value in shape.items() if key not in ("architectures", "model_type")}
    with device:
        model = LlamaForCausalLM(LlamaConfig(**fields)).to(dtype)
        for number in range(inputs.ADAPTERS):
            name = f"a{number:02d}"
            rank = _rank(name)
            config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=inputs.LINEARS, init_lora_weights=False)
            if number == 0:
                model = get_peft_model(model, config, adapter_name=name, autocast_adapter_dtype=False)
            else:
                model.add_adapter(name, config)
    return model.to(dtype).eval()


def compare(speeds: dict[str, float], model: Any, folder: Path) -> Iterator[Comparison]:
    """speeds: the engine's, from `engine_speeds`."""
    for name, speed in speeds.items():
        requests = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for request in requests:
            request["adapter"] = request["adapter"] or "__base__"
        with torch.inference_mode():
            runs = [peft_baseline.run(model, requests)["tokens_per_second"] for _ in range(2)]
        yield Comparison(name, round(speed, 1), round(runs[-1], 1), round(speed / runs[-1], 2))
