"""Embeddings equal transformers' hidden states after the final norm: batched, chunked, cached, preempted."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import LlamaConfig

from multiflora_engine.build import BuiltEngine
from multiflora_engine.protocol.requests import GenerateRequest, Pooling
from multiflora_engine.protocol.sampling_params import SamplingParams

EMBEDS = SamplingParams(max_tokens=0)


def embed(
    built: BuiltEngine, prompts: list[list[int]], pooling: Pooling, adapter: str | None = None, writes: int = 0
) -> tuple[list[npt.NDArray[np.float32]], list[int]]:
    """(embeddings, cached tokens), while `writes` other requests write text in the same batches."""
    for index in range(writes):
        params = SamplingParams(temperature=0.0, max_tokens=9, ignore_eos=True)
        built.engine.add_request(GenerateRequest(id=f"w{index}", prompt_token_ids=[7, index], params=params))
    for index, prompt in enumerate(prompts):
        request = GenerateRequest(
            id=str(index), prompt_token_ids=prompt, params=EMBEDS, pooling=pooling, adapter_digest=adapter
        )
        built.engine.add_request(request)
    found: dict[str, Any] = {}
    texts = 0
    while built.engine.has_work:
        for delta in built.engine.step():
            assert delta.failure is None, delta.failure
            texts += len(delta.token_ids)
            if delta.embedding is not None:
                assert (delta.finish_reason, delta.token_ids) == ("stop", [])
                assert delta.request_id not in found
                found[delta.request_id] = (np.frombuffer(delta.embedding, "<f4"), delta.cached_tokens)
    assert texts == 9 * writes
    rows = [found[str(index)] for index in range(len(prompts))]
    return [row[0] for row in rows], [row[1] for row in rows]


def expected(model: Any, prompt: list[int], pooling: Pooling) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        hidden = model.model(torch.tensor([prompt])).last_hidden_state[0]
    row = hidden[-1] if pooling == "last" else hidden.mean(0)
    result: npt.NDArray[np.float32] = row.numpy()
    return result


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_embeddings_equal_transformers(
    pooling: Pooling, tiny_config: Any, save_model: Any, start_engine: Any, prompts: Any
) -> None:
    """Twice: the second time over a warm prefix cache, of which the mean reads nothing."""
    model, folder = save_model(tiny_config(LlamaConfig))
    built = start_engine(folder)
    for turn in range(2):
        rows, cached = embed(built, prompts, pooling, writes=3)
        for prompt, row in zip(prompts, rows, strict=True):
            assert np.abs(row - expected(model, prompt, pooling)).max() < 2e-3
        assert pooling == "last" or not any(cached)
        assert pooling == "mean" or turn == 0 or all(cached[4:])


def test_embeddings_under_preemption(tiny_config: Any, save_model: Any, start_engine: Any, prompts: Any) -> None:
    """So few blocks that sequences lose theirs between two chunks."""
    model, folder = save_model(tiny_config(LlamaConfig))
    built = start_engine(folder, kv_cache_memory=2 * 2 * 32 * 4 * 16 * 18, max_num_batched_tokens=16, max_model_len=256)
    rows, _ = embed(built, prompts, "mean", writes=4)
    for prompt, row in zip(prompts, rows, strict=True):
        assert np.abs(row - expected(model, prompt, "mean")).max() < 2e-3


def test_an_adapters_embeddings_are_its_own(
    tiny_config: Any, save_model: Any, start_engine: Any, make_adapters: Any, prompts: Any
) -> None:
    _, folder = save_model(tiny_config(LlamaConfig))
    (digest,) = make_adapters([4])
    built = start_engine(folder)
    base, _ = embed(built, prompts[3:5], "last")
    adapted, cached = embed(built, prompts[3:5], "last", digest)
    assert not any(cached)
    assert min(np.abs(a - b).max() for a, b in zip(base, adapted, strict=True)) > 1e-2
