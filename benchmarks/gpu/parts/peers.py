"""Whole workloads: the engine beside transformers + PEFT on the same card, from the same token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch

from gpu.case import Case, Setting
from gpu.llama import LLAMA_8B
from gpu.peers import WORKLOADS, baseline_model, baseline_speed, engine_speed, shifted, workloads
from gpu.steps import Traffic, traffic_of


def cases(setting: Setting) -> Iterator[Case]:
    traffic = traffic_of(setting, max_num_seqs=64, max_loras=32, max_lora_rank=16)
    shape = LLAMA_8B | {"num_hidden_layers": setting.layers}
    model = cache(partial(baseline_model, shape, torch.device(setting.device), torch.bfloat16))
    for number, name in enumerate(WORKLOADS):
        yield Case(f"{name}, engine", partial(_engine, traffic, name, number), 120)
        yield Case(f"{name}, transformers + PEFT", partial(_baseline, model, name), 120)


def _engine(traffic: Callable[[], Traffic], name: str, number: int) -> dict[str, Any]:
    """Of the second run: the first one compiles kernels and loads adapters."""
    runs = [engine_speed(traffic(), shifted(workloads()[name], 2 * number + run)) for run in range(2)]
    return {"tokens_per_second": round(runs[-1], 1)}


def _baseline(model: Callable[[], Any], name: str) -> dict[str, Any]:
    runs = [baseline_speed(model(), workloads()[name]) for _ in range(2)]
    return {"tokens_per_second": round(runs[-1], 1)}
