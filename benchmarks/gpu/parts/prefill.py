"""Prompts from request to first token: never read before, and cached but for the last block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from gpu.case import Case, Setting
from gpu.steps import (
    StepCost,
    Traffic,
    floor_seconds,
    hit_seconds,
    itemsize,
    kv_bytes,
    linear_parameters,
    micro,
    prefill_costs,
    prefill_seconds,
    traffic_of,
)

LENGTHS = (8192, 1024, 32768)


def cases(setting: Setting) -> Iterator[Case]:
    traffic = traffic_of(setting, max_num_seqs=8, max_loras=8, max_lora_rank=16)
    for tokens in LENGTHS:
        yield Case(f"{tokens} tokens", partial(_prompt, traffic, setting, tokens), 90)


def _prompt(traffic: Callable[[], Traffic], setting: Setting, tokens: int) -> dict[str, Any]:
    model, size = traffic().built.model, itemsize(traffic())
    prefill_seconds(traffic(), tokens)  # what is compiled or chosen at its first use is there now
    miss, hit = prefill_seconds(traffic(), tokens), hit_seconds(traffic(), tokens)
    floor = floor_seconds(prefill_costs(model, tokens, size), setting.limits)
    least = [StepCost(linear_parameters(model) * size + kv_bytes(model, tokens, size), 0.0)]
    return {
        "us": micro(miss),
        "floor_us": micro(floor),
        "share": round(floor / miss, 3),
        "hit_us": micro(hit),
        "hit_floor_us": micro(floor_seconds(least, setting.limits)),
        "miss_over_hit": round(miss / hit, 1),
    }
