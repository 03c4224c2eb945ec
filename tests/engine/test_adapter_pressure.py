"""More adapters than fit, on a real engine: real files, slots, residency, scheduler and a tiny model.

Whatever has to wait, be evicted, read again or fail: everybody else's answer is what it would be alone.
"""

from __future__ import annotations

import gc
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from multiflora_adapters.store import ArtifactStore
from multiflora_adapters.weights import HostAdapter
from multiflora_engine.build import BuiltEngine
from multiflora_engine.process.adapter_commands import AdapterCommands
from multiflora_engine.protocol.messages import AdapterCommand, AdapterResult
from multiflora_engine.protocol.requests import GenerateRequest, TokenDelta
from multiflora_engine.protocol.sampling_params import SamplingParams

MakeAdapters = Callable[[list[int]], list[str]]
PROMPTS = [[5, 6, 7], list(range(20, 60))]


@pytest.fixture
def folder(tiny_config: Any, save_model: Any) -> Path:
    _, path = save_model(tiny_config(LlamaConfig))
    assert isinstance(path, Path)
    return path


class Traffic:
    """Greedy requests on one engine, what they got, and how many steps each waited for its first token."""

    def __init__(self, built: BuiltEngine) -> None:
        self.built = built
        self.steps = 0
        self.tokens: dict[str, list[int]] = {}
        self.failures: dict[str, str] = {}
        self.waits: dict[str, int] = {}
        self._arrivals: dict[str, int] = {}

    def ask(self, prompt: list[int], adapter: str | None, max_tokens: int = 8, **params: Any) -> str:
        name = str(len(self.tokens))
        sampling = SamplingParams(**({"temperature": 0.0, "max_tokens": max_tokens, "ignore_eos": True} | params))
        self.built.engine.add_request(
            GenerateRequest(id=name, prompt_token_ids=prompt, params=sampling, adapter_digest=adapter)
        )
        self.tokens[name], self._arrivals[name] = [], self.steps
        return name

    def step(self) -> list[TokenDelta]:
        self.steps += 1
        deltas = self.built.engine.step()
        for delta in deltas:
            self.waits.setdefault(delta.request_id, self.steps - self._arrivals[delta.request_id])
            self.tokens[delta.request_id] += delta.token_ids
            if delta.failure is not None:
                self.failures[delta.request_id] = delta.failure.code
        if self.built.engine.is_stalled:
            self.built.residency.wait(0.05)
        return deltas

    def run(self, max_steps: int = 5000) -> None:
        while self.built.engine.has_work:
            self.step()
            assert self.steps < max_steps, "requests are left over: somebody starves"


def answers_alone(
    built: BuiltEngine, adapters: list[str], max_tokens: int = 8
) -> dict[tuple[str | None, int], list[int]]:
    alone = {}
    for adapter in (None, *adapters):
        for place, prompt in enumerate(PROMPTS):
            traffic = Traffic(built)
            name = traffic.ask(prompt, adapter, max_tokens)
            traffic.run()
            alone[adapter, place] = traffic.tokens[name]
    assert len({tuple(tokens) for tokens in alone.values()}) == len(alone), "adapters that say what others say"
    return alone


@pytest.mark.parametrize(
    ("ranks", "max_loras", "max_cpu_loras"),
    [
        pytest.param([16] * 6, 3, 64, id="6 on 3"),
        pytest.param([16] * 16, 8, 64, id="16 on 8"),
        pytest.param([16] * 4, 1, 64, id="one at a time"),
        pytest.param([16, 12, 9, 8, 5, 4, 3, 16, 1, 10], 2, 3, id="all ranks, and little host memory"),
    ],
)
def test_more_adapters_than_fit(
    folder: Path,
    make_adapters: MakeAdapters,
    start_engine: Any,
    ranks: list[int],
    max_loras: int,
    max_cpu_loras: int,
) -> None:
    """Random arrivals, a third of them the base's, somewhat more than the engine can carry."""
    adapters = make_adapters(ranks)
    alone = answers_alone(start_engine(folder, max_loras=16), adapters)
    built = start_engine(folder, max_loras=max_loras, max_cpu_loras=max_cpu_loras, max_num_seqs=8)
    traffic, chance = Traffic(built), random.Random(0)
    asked: dict[str, tuple[str | None, int]] = {}
    while len(asked) < 120:
        if chance.random() < 0.9:
            adapter = chance.choice(adapters) if chance.random() < 2 / 3 else None
            place = chance.randrange(len(PROMPTS))
            asked[traffic.ask(PROMPTS[place], adapter)] = (adapter, place)
        traffic.step()
    traffic.run()
    assert not traffic.failures
    for name, question in asked.items():
        assert traffic.tokens[name] == alone[question], question
    assert built.engine.stats().adapter_evictions > 0
    base_waits = [traffic.waits[name] for name, (adapter, _) in asked.items() if adapter is None]
    assert max(base_waits) <= 30, "base requests pass"
    assert max(traffic.waits.values()) <= 120
    assert not built.engine.stats().running
    assert all(not row.running for row in built.residency.snapshot())


def test_hot_adapters_do_not_keep_out_a_cold_one(folder: Path, make_adapters: MakeAdapters, start_engine: Any) -> None:
    """Both slots have users at every moment; a request and a probe of other adapters are served all the same."""
    hot, other, cold, probed = make_adapters([16] * 4)
    built = start_engine(folder, max_loras=2)
    commands = AdapterCommands(built.residency, built.probe)
    traffic = Traffic(built)
    answers: list[AdapterResult] = []
    name = ""
    while not (name and traffic.tokens[name]):
        if traffic.steps % 4 == 0:
            for adapter in (hot, other):
                traffic.ask(PROMPTS[0], adapter, 12)
        if traffic.steps == 20:
            commands.submit(AdapterCommand(1, "probe", probed))
        if answers and not name:
            name = traffic.ask(PROMPTS[0], cold)
        traffic.step()
        answers += commands.advance()
        assert traffic.steps < 200
    assert answers[0].error is None
    assert answers[0].logit_distance
    traffic.run()


def test_running_requests_do_not_wait_for_a_slow_disk(
    folder: Path, make_adapters: MakeAdapters, start_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident, slow = make_adapters([8, 8])
    built = start_engine(folder, max_loras=4)
    traffic = Traffic(built)
    first = traffic.ask(PROMPTS[0], resident)
    traffic.run()
    reader = built.residency._host.reader
    load, began, gate = reader._load, threading.Event(), threading.Event()

    def slow_load(digest: str) -> HostAdapter:
        began.set()
        assert gate.wait(30)
        return load(digest)

    monkeypatch.setattr(reader, "_load", slow_load)
    waiting = traffic.ask(PROMPTS[0], slow)
    others = [traffic.ask(PROMPTS[0], resident), traffic.ask(PROMPTS[1], None)]
    before = traffic.steps
    for _ in range(9):
        traffic.step()
    assert began.wait(5)
    assert [len(traffic.tokens[name]) for name in (waiting, *others)] == [0, 8, 8], "one token a step, while it loads"
    assert traffic.tokens[others[0]] == traffic.tokens[first]
    gate.set()
    traffic.run(before + 200)
    assert len(traffic.tokens[waiting]) == 8


@pytest.mark.parametrize("damage", ["vanished", "truncated", "changed"])
def test_a_damaged_artifact_of_an_evicted_adapter_fails_its_own_requests(
    folder: Path, store: ArtifactStore, make_adapters: MakeAdapters, start_engine: Any, damage: str
) -> None:
    victim, other = make_adapters([16, 16])
    built = start_engine(folder, max_loras=1, max_cpu_loras=1)
    alone = answers_alone(built, [victim, other])
    weights = store.path(victim) / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    if damage == "vanished":
        shutil.rmtree(store.path(victim))
    elif damage == "truncated":
        weights.write_bytes(content[:-100])
    else:
        content[-50] ^= 1
        weights.write_bytes(content)
    traffic = Traffic(built)
    running = traffic.ask(PROMPTS[1], None)
    traffic.step()
    failing = [traffic.ask(PROMPTS[0], victim), traffic.ask(PROMPTS[1], victim, n=2)]
    sound = traffic.ask(PROMPTS[0], other)
    traffic.run()
    assert traffic.failures == dict.fromkeys(failing, "adapter_unavailable")
    assert traffic.tokens[running] == alone[None, 1]
    assert traffic.tokens[sound] == alone[other, 0]


def test_a_deadline_passes_while_an_adapter_waits_for_its_slot(
    folder: Path, make_adapters: MakeAdapters, start_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, waiting = make_adapters([16, 16])
    built = start_engine(folder, max_loras=1)
    now = 1000.0
    monkeypatch.setattr(built.engine._scheduler, "_clock", lambda: now)
    traffic = Traffic(built)
    running = traffic.ask(PROMPTS[0], holder, 40)
    for _ in range(8):
        traffic.step()
    built.engine.add_request(
        GenerateRequest(
            id="late",
            prompt_token_ids=[1],
            params=SamplingParams(max_tokens=4),
            adapter_digest=waiting,
            deadline=now + 5,
        )
    )
    traffic.tokens["late"], traffic._arrivals["late"] = [], traffic.steps
    for _ in range(8):
        traffic.step()
    assert "late" not in traffic.failures
    now += 6
    traffic.step()
    assert traffic.failures == {"late": "deadline_exceeded"}
    traffic.run()
    assert len(traffic.tokens[running]) == 40


def test_requests_leave_nothing_behind(folder: Path, make_adapters: MakeAdapters, start_engine: Any) -> None:
    """Answered and aborted ones, under penalties and log-probabilities, on adapters that come and go."""
    adapters = make_adapters([16, 16, 16])
    built = start_engine(folder, max_loras=1, max_cpu_loras=1, kv_cache_memory=1 << 18)

    def serve_some() -> int:
        traffic = Traffic(built)
        for number in range(60):
            params = {"n": 1 + number % 2, "presence_penalty": number % 3 / 4, "logprobs": 1, "prompt_logprobs": 1}
            name = traffic.ask(PROMPTS[number % 2], (None, *adapters)[number % 4], number % 5, **params)
            if number % 7 == 0:
                built.engine.abort(name)
            traffic.step()
        traffic.run()
        traffic.ask(PROMPTS[0], None, 0)  # the next step forgets who waited for a slot in the one before
        traffic.run()
        assert not traffic.failures
        del traffic
        gc.collect()
        return len(gc.get_objects())

    serve_some()
    counts = [serve_some() for _ in range(3)]
    assert counts[-1] - counts[0] < 60, "less than one object a request"
