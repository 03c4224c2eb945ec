"""A plan is plain data: what another process reads of it computes the same tokens."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from tests.engine.execution.test_runner import CPU, scheduled
from transformers import LlamaConfig

from multiflora_adapters.slots import SlotPool
from multiflora_adapters.zero_adapter import zero_adapter
from multiflora_engine.core.step import Scheduled
from multiflora_engine.execution import step_arrays
from multiflora_engine.execution.device_side import DeviceSide, build_device_side
from multiflora_engine.execution.step_arrays import StepArrays
from multiflora_engine.execution.step_plan import StepPlanner
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.loader import load_weights
from multiflora_engine.protocol.config import SizedConfig
from multiflora_engine.sampling.sampler import Sampler

BLOCK = 16


def _plain(value: Any) -> Any:
    """Numbers, strings, bytes, lists and dictionaries, as msgspec's MessagePack takes them."""
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.str, "shape": value.shape, "bytes": value.tobytes()}
    if is_dataclass(value):
        parts = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        return {"class": type(value).__name__, "fields": parts}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(item) for item in value]
    if isinstance(value, dict) and "class" in value:
        parts = {name: _restored(part) for name, part in value["fields"].items()}
        return getattr(step_arrays, value["class"])(**parts)
    if isinstance(value, dict):
        return np.frombuffer(value["bytes"], value["dtype"]).reshape(value["shape"])
    return value


def _sent(arrays: StepArrays) -> StepArrays:
    restored = _restored(msgspec.msgpack.decode(msgspec.msgpack.encode(_plain(arrays))))
    assert isinstance(restored, StepArrays)
    return restored


def _rank(folder: Path, config: ModelConfig) -> DeviceSide:
    weights = load_weights(folder, config, torch.float32, CPU)
    pool = SlotPool(config.base_model("x"), 4, 32, torch.float32, CPU)
    assert pool.put(zero_adapter(config.layer_sites(0), 1, torch.float32)) == 0
    engine_config = SizedConfig(model_path="", artifact_root="", kv_cache_memory=1 << 20, num_threads=1)
    return build_device_side(engine_config, config, weights, pool, Sampler(config.vocab_size))


def _entries() -> list[Scheduled]:
    """An adapter's prompt, a chunk that samples nothing, a prompt with log-probabilities, a prompt of the base."""
    return [
        scheduled([5, 6, 7, 8], 0, 4, [0], slot=0),
        scheduled([5, 6, 7, 8], 0, 3, [1]),
        scheduled([9, 8, 7], 0, 3, [2], prompt_logprobs=1),
        scheduled([30, 31], 0, 2, [3]),
    ]


@torch.inference_mode()
def test_sent_arrays_compute_what_the_planned_ones_do(tiny_config: Any, save_model: Any) -> None:
    """One rank plans and executes, the other is sent the bytes; then a decode whose token only the devices know."""
    _, folder = save_model(tiny_config(LlamaConfig))
    config = load_model_config(folder)
    planner = StepPlanner(BLOCK, config.vocab_size)
    first, second = _rank(folder, config), _rank(folder, config)
    entries = _entries()
    plan = planner.plan(entries)
    assert plan.arrays.sample_rows is not None, "not every row that wants logits samples"
    assert plan.arrays.prompt_slices
    tokens = [_run(side, arrays) for side, arrays in ((first, plan.arrays), (second, _sent(plan.arrays)))]
    assert tokens[0] == tokens[1]
    assert len(tokens[0]) == 3
    planner.keep(plan)
    ahead = [Scheduled(entry.sequence, entry.sequence.num_tokens, 1, True, 0) for entry in plan.sampling]
    decode = planner.plan(ahead).arrays
    assert decode.token_sources is not None
    assert decode.token_ids.tolist() == [0, 0, 0], "the plan does not know what was sampled"
    following = _run(first, decode)
    assert following == _run(second, _sent(decode))
    for entry, token in zip(plan.sampling, tokens[0], strict=True):
        entry.sequence.append_token(token)
    known = planner.plan(ahead).arrays
    assert (known.token_sources, sorted(known.token_ids.tolist())) == (None, sorted(tokens[0]))
    assert _run(second, _sent(known)) == following, "as when the host knows the tokens"


def _run(side: DeviceSide, arrays: StepArrays) -> list[int]:
    executor = side.executor
    logits = executor.finish(executor.begin(arrays)).logits
    assert logits is not None
    tokens = logits.argmax(-1)
    executor.feedback.keep(tokens)
    return [int(token) for token in tokens]
