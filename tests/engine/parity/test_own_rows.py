"""Adapters with an embedding or head of their own: their room on the device is limited, and they take turns in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.engine.parity.test_adapters import KINDS, save_adapter
from transformers import LlamaConfig, PreTrainedModel

from multiflora_adapters.store import ArtifactStore
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams

MATRIX = 300 * 64 * 4


@pytest.fixture
def folder(tiny_config: Any, save_model: Any) -> Path:
    _, path = save_model(tiny_config(LlamaConfig))
    assert isinstance(path, Path)
    return path


@pytest.fixture
def adapters(tmp_path: Path, folder: Path, store: ArtifactStore) -> Callable[..., dict[str, PreTrainedModel]]:
    """Digest -> the oracle of one new adapter for each of these kinds."""

    def make(*kinds: str) -> dict[str, PreTrainedModel]:
        made = {}
        for place, kind in enumerate(kinds):
            path = tmp_path / f"{kind}-{place}"
            oracle = save_adapter(folder, path, KINDS[kind])
            made[store.add(path).digest] = oracle
        return made

    return make


def test_adapters_take_turns_in_the_room_for_one(
    folder: Path, adapters: Any, start_engine: Any, ask: Any, check_answer: Any, prompts: Any
) -> None:
    oracles = adapters("own_both", "own_both", "own_head", "plain")
    engine = start_engine(folder, max_model_len=256, adapter_matrix_memory=2 * MATRIX)
    rows = [(digest, prompt) for prompt in prompts[:4] for digest in oracles]
    answers = ask(engine, [prompt for _, prompt in rows], [digest for digest, _ in rows])
    assert engine.engine.stats().adapter_evictions > 0, "the second one does not fit beside the first"
    for (digest, prompt), answer in zip(rows, answers, strict=True):
        check_answer(oracles[digest], prompt, answer)
    reports = {row.digest: row.bytes for row in engine.residency.snapshot()}
    assert all(reports[digest] > 2 * MATRIX for digest in list(oracles)[:2]), "what an operator sees has the matrices"


def failures(engine: Any, digests: list[str | None]) -> list[str | None]:
    """What each of these adapters' requests is told, asked for at once."""
    params = SamplingParams(max_tokens=2, temperature=0.0)
    for place, digest in enumerate(digests):
        request = GenerateRequest(id=str(place), prompt_token_ids=[5, 6], params=params, adapter_digest=digest)
        engine.engine.add_request(request)
    ends: dict[str, str | None] = {}
    while engine.engine.has_work:
        for delta in engine.engine.step():
            ends[delta.request_id] = delta.failure.message if delta.failure else None
    return [ends[str(place)] for place in range(len(digests))]


@pytest.mark.parametrize("memory", [0, 2 * MATRIX - 1])
def test_one_that_never_fits_fails_its_own_requests(
    folder: Path, adapters: Any, start_engine: Any, memory: int
) -> None:
    own, plain = adapters("own_both", "plain")
    told = failures(start_engine(folder, adapter_matrix_memory=memory), [own, None, plain])
    assert told[1:] == [None, None]
    assert told[0] is not None
    assert f"--adapter-matrix-memory {2 * MATRIX}" in told[0]


def test_a_pinned_one_in_use_leaves_less_for_the_others(folder: Path, adapters: Any, start_engine: Any) -> None:
    first, second, rows = adapters("own_head", "own_both", "token_rows")
    engine = start_engine(folder, max_model_len=256, adapter_matrix_memory=2 * MATRIX)
    engine.residency.pin(first)
    params = SamplingParams(max_tokens=100, temperature=0.0, ignore_eos=True)
    engine.engine.add_request(GenerateRequest(id="long", prompt_token_ids=[5], params=params, adapter_digest=first))
    while not engine.engine.step():
        engine.residency.wait(0.05)
    told = failures(engine, [second, rows, first])
    assert told[1:] == [None, None]
    assert told[0] is not None
    assert f"take {2 * MATRIX} bytes" in told[0]
    assert "--adapter-matrix-memory" in told[0]
    assert failures(engine, [second]) == [None], "idle, it makes room and comes back"
