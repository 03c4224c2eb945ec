"""Shadow runs: never returned, compared, last in line, and dropped rather than queued; what splits by hand hear."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.platform.gateway.house import BASE_DIGEST, FakeRegistry, House

from multiflora_engine.protocol.messages import EngineStats
from multiflora_engine.protocol.requests import EngineFailure
from multiflora_platform.registry.snapshot.snapshot import Resolved, RolloutEntry, SplitEntry

STABLE, CANDIDATE = "d" * 64, "c" * 64
BODY = {"model": "sql", "prompt": "Say", "max_tokens": 3, "temperature": 0}


def roll_out(house: House, monkeypatch: pytest.MonkeyPatch, version: int = 1, shadow_percent: int = 100) -> Any:
    """`sql` is at version 1 with a rollout of version 2; requests get `version`."""
    rollout = RolloutEntry(7, "sql", 1, 2, 0, shadow_percent, {})
    digest = STABLE if version == 1 else CANDIDATE
    resolved = Resolved("sql", version, digest, "default", rollout=rollout, base_digest=BASE_DIGEST)
    entry = type("Entry", (), {"digests": {1: STABLE, 2: CANDIDATE}})
    monkeypatch.setattr(FakeRegistry, "resolve", lambda self, model, user: resolved)
    monkeypatch.setattr(FakeRegistry, "snapshot", type("S", (), {"adapters": {"sql": entry}, "digests": frozenset()}))
    return house.registry.rollouts


async def settled(house: House) -> None:
    await asyncio.gather(*house.services.shadows._tasks)


async def test_a_shadow_runs_after_the_answer_and_nobody_sees_it(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts = roll_out(house, monkeypatch)
    answer = (await house.post("/v1/completions", BODY)).json()
    assert answer["choices"][0]["text"] == "Hel"
    await settled(house)
    live, shadow = house.engine.requests
    assert (live.adapter_digest, shadow.adapter_digest) == (STABLE, CANDIDATE)
    assert shadow.prompt_token_ids == live.prompt_token_ids
    assert shadow.cache_salt == live.cache_salt
    assert shadow.priority > live.priority
    assert (live.background, shadow.background) == (False, True)
    assert shadow.cache_share < 1
    observed = rollouts.seen.shadow.observed
    assert (observed.requests, observed.exact, observed.agreement, observed.length_ratio) == (1, 1, 1.0, 1.0)
    assert [version for version, outcome in rollouts.outcomes if outcome.ok] == [1], "a shadow is no request of anybody"
    assert sum(counts.requests for counts in house.services.usage.counted.values()) == 1
    assert house.registry.leased == []


async def test_a_candidates_own_requests_are_not_shadowed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts = roll_out(house, monkeypatch, version=2)
    await house.post("/v1/completions", BODY)
    await settled(house)
    assert [version for version, _ in rollouts.outcomes] == [2]
    assert len(house.engine.requests) == 1


async def test_shadows_are_dropped_while_requests_wait_and_when_there_are_too_many(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts = roll_out(house, monkeypatch)
    house.engine.stats = EngineStats(waiting=1)
    await house.post("/v1/completions", BODY)
    assert rollouts.seen.shadow.skipped == 1
    house.engine.stats = EngineStats()
    house.engine.pace = 0.01
    await asyncio.gather(*(house.post("/v1/completions", BODY) for _ in range(5)))
    assert len(house.services.shadows._tasks) == 2
    assert rollouts.seen.shadow.skipped == 4
    await house.services.shadows.close()
    assert house.registry.leased == []


async def test_answers_that_nobody_can_repeat_are_not_compared_by_token(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts = roll_out(house, monkeypatch)
    await house.post("/v1/completions", {**BODY, "temperature": 1})
    await house.services.shadows._tasks.copy().pop()
    await house.post("/v1/completions", {**BODY, "temperature": 1, "seed": 3})
    await settled(house)
    observed = rollouts.seen.shadow.observed
    assert (observed.requests, observed.compared) == (2, 1)


async def test_failures_are_told_apart(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts = roll_out(house, monkeypatch, version=2)
    codes = ("adapter_unavailable", "internal_error", "server_overloaded", "invalid_request")
    for code in codes:
        house.engine.failure = EngineFailure(code, "no")
        assert (await house.post("/v1/completions", BODY)).status_code >= 400
    assert [(outcome.ok, outcome.refused) for _, outcome in rollouts.outcomes] == [(False, True), (False, False)]


async def test_a_candidate_that_a_shadow_cannot_load_is_reported(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts = roll_out(house, monkeypatch)
    submit = house.services.shadows.submit

    def fail_then_submit(*arguments: Any) -> None:
        house.engine.failure = EngineFailure("adapter_unavailable", "its file is gone")
        submit(*arguments)

    monkeypatch.setattr(house.services.shadows, "submit", fail_then_submit)
    assert (await house.post("/v1/completions", BODY)).status_code == 200
    await settled(house)
    assert rollouts.refusals == 1
    assert rollouts.seen.shadow.errors == 1


async def test_repeatable_answers_that_differ_are_told_with_what_was_asked(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts = roll_out(house, monkeypatch)
    messages = [{"role": "user", "content": "Say"}]
    chat = {"model": "sql", "messages": messages, "max_tokens": 4, "temperature": 0}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    submit = house.services.shadows.submit

    def answer_otherwise(*arguments: Any) -> None:
        house.engine.reply = "Jello"
        submit(*arguments)

    monkeypatch.setattr(house.services.shadows, "submit", answer_otherwise)
    asked: list[tuple[str, Any, Any, list[str]]] = [
        ("completions", BODY, {"prompt": "Say"}, []),
        ("chat/completions", chat, {"messages": messages}, []),
        ("chat/completions", {**chat, "stop": "ö", "tools": tools}, {"messages": messages}, ["stop", "tools"]),
        ("completions", {**BODY, "prompt": ["Say"], "seed": 3, "temperature": 1}, {"prompt": "Say"}, ["prompt"]),
    ]
    for path, body, _, _ in [*asked, ("completions", {**BODY, "temperature": 1}, {}, [])]:
        house.engine.reply = "Hello"
        assert (await house.post(f"/v1/{path}", body)).status_code == 200
        await settled(house)
    found = [(asked.question, asked.beyond) for asked, _, _ in rollouts.pairs]
    assert found == [(question, beyond) for _, _, question, beyond in asked]
    first, stable, candidate = rollouts.pairs[0]
    assert (first.tenant, first.max_tokens) == (None, 3)
    assert (first.decode(stable), first.decode(candidate)) == ("Hel", "Jel")


async def test_a_split_by_hand_hears_what_its_versions_are_to_blame_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = SplitEntry("sql", "default", 1)
    resolved = Resolved("sql", 2, STABLE, "default", split=split, base_digest=BASE_DIGEST)
    monkeypatch.setattr(FakeRegistry, "resolve", lambda self, model, user: resolved)
    heard: list[Any] = []
    house.registry.splits.observe = lambda *told: heard.append(told)
    assert (await house.post("/v1/completions", BODY)).status_code == 200
    for code in ("server_overloaded", "internal_error"):
        house.engine.failure = EngineFailure(code, "no")
        assert (await house.post("/v1/completions", BODY)).status_code >= 400
    assert [(one, version, outcome.ok) for one, version, outcome in heard] == [(split, 2, True), (split, 2, False)]
    assert heard[0][2].seconds > 0
