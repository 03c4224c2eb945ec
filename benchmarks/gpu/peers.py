"""The workloads of inputs.py on one GPU: the engine beside transformers + PEFT, same shapes, same token ids."""

from __future__ import annotations

import json
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import inputs
import peft_baseline
from gpu.llama import adapter_digest
from gpu.steps import Traffic

WORKLOADS = ("w1-0", "w1-1", "w1-8", "w1-32", "w2-0", "w2-8", f"w3-{inputs.ADAPTERS}")


def _rank(name: str) -> int:
    """As inputs.py makes them: even numbers have rank 8, odd ones 16."""
    return 16 if int(name[1:]) % 2 else 8


def engine_speed(traffic: Traffic, requests: list[dict[str, Any]]) -> float:
    """Output tokens a second with all requests known at the start."""
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


def baseline_speed(model: Any, requests: list[dict[str, Any]]) -> float:
    """Output tokens a second of one static batch."""
    named = [request | {"adapter": request["adapter"] or "__base__"} for request in requests]
    with torch.inference_mode():
        return float(peft_baseline.run(model, named)["tokens_per_second"])


@cache
def workloads() -> dict[str, list[dict[str, Any]]]:
    """Requests of each, by name."""
    with tempfile.TemporaryDirectory() as folder:
        inputs.make_workloads(Path(folder))
        return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in Path(folder).glob("*.json")}
