"""How near approximate reuse comes: kept prompts answered twice, and the two answers compared token by token."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace
from tests.platform.gateway.house import OTHER, READY, House
from tests.platform.gateway.prompting.test_reused_documents import chat

from multiflora_engine.process.token_stream import TokenStream
from multiflora_engine.protocol.requests import EngineFailure, GenerateRequest, PositionLogprobs, TokenLogprob
from multiflora_platform.gateway.background.reuse_audit import GreedyAnswer, compared, summary
from multiflora_platform.insight.kept_prompts import KeptPrompt, Outline
from multiflora_platform.insight.logged_request import PromptFacts

AUDIT = "/api/v1/cache:audit"


def answer(*positions: tuple[int, float, dict[int, float]], cached: int = 0) -> GreedyAnswer:
    """Of (token, its log-probability, the others')."""
    logprobs = [
        PositionLogprobs(TokenLogprob(token, own, 1), [TokenLogprob(t, p, 2) for t, p in top.items()])
        for token, own, top in positions
    ]
    return GreedyAnswer([token for token, *_ in positions], logprobs, cached)


@pytest.fixture
def prompt() -> KeptPrompt:
    facts = PromptFacts("x", 0.0, "acme", "sql", None, 0, None, "/v1/chat/completions", False, 8)
    return KeptPrompt(facts, array("I", range(8)), "", Outline())


def test_answers_are_compared_up_to_the_first_difference(prompt: KeptPrompt) -> None:
    exact = answer((5, -0.1, {}), (6, -0.3, {}), (7, -0.5, {}), (8, -9.0, {}))
    reused = answer((5, -0.2, {}), (6, -0.2, {}), (9, -0.4, {7: -1.5, 3: -4.0}), (8, 0.0, {}), cached=6)
    found = compared(prompt, exact, reused)
    assert (found.tokens, found.agreed_tokens, found.same_answer, found.reused_tokens) == (4, 2, False, 6)
    assert found.first_distance == pytest.approx(0.1)
    assert found.distance == pytest.approx((0.1 + 0.1 + 1.0) / 3)


def test_a_token_that_is_not_shown_is_as_far_as_the_last_that_is(prompt: KeptPrompt) -> None:
    found = compared(prompt, answer((5, -0.1, {})), answer((9, -0.4, {3: -4.0})))
    assert found.distance == pytest.approx(3.9)


def test_equal_answers_and_those_that_failed(prompt: KeptPrompt) -> None:
    one = answer((5, -0.1, {}), (6, -0.3, {}))
    same = compared(prompt, one, one)
    failed = compared(prompt, one, GreedyAnswer(failure="gone"))
    whole = summary(7, [same, failed])
    assert (whole.known, whole.audited, whole.same_answers, whole.agreement, whole.distance) == (7, 1, 1, 1.0, 0.0)
    assert failed.error == "gone"
    nothing = summary(0, [])
    assert (nothing.audited, nothing.agreement, nothing.reused_share, nothing.distance) == (0, None, None, None)


async def test_a_sample_is_answered_twice_for_its_own_tenant(make_house: Callable[..., House]) -> None:
    house = make_house()
    house.engine.ready = replace(READY, max_model_len=4096, num_blocks=512)
    for _ in range(3):
        await house.post("/v1/chat/completions", chat(cache_salt="mine"), Authorization=f"Bearer {OTHER}")
    await house.post("/v1/chat/completions", chat())
    await house.post("/v1/chat/completions", {"model": "sql", "messages": [{"role": "user", "content": "x"}]})
    sent = house.engine.requests[2]
    before = len(house.engine.requests)
    told = await house.post(AUDIT, {"sample": 2, "tenant": "other", "max_tokens": 5})
    assert told.status_code == 200, told.text
    body = told.json()
    assert (body["known"], body["audited"], body["same_answers"], body["agreement"]) == (3, 2, 2, 1.0)
    assert {item["tenant"] for item in body["items"]} == {"other"}
    made = house.engine.requests[before:]
    answers = [one for one in made if one.params.max_tokens == 5]
    assert [bool(one.documents) for one in answers] == [False, True] * 2
    for request in answers:
        assert (request.cache_salt, request.cache_owner) == (sent.cache_salt, sent.cache_owner)
        assert (request.background, request.prompt_token_ids) == (True, sent.prompt_token_ids)
    assert (await house.post(AUDIT, {})).json()["known"] == 4, "of all tenants"


async def test_the_base_model_and_the_adapters_stay_while_it_asks(
    make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make_house()
    house.engine.ready = replace(READY, max_model_len=4096, num_blocks=512)
    house.registry.digests["triage"] = "e" * 64
    mix = [{"name": "sql", "weight": 0.5}, {"name": "triage", "weight": 0.5}]
    for fields in ({"model": "base"}, {"model": "sql"}, {"model": "base", "adapters": mix}):
        assert (await house.post("/v1/chat/completions", chat() | fields)).status_code == 200
    generate, group, held = house.engine.generate, house.services.groups.default, set()

    def watched(request: GenerateRequest) -> TokenStream:
        held.add((group.in_flight, *sorted(house.registry.leased)))
        return generate(request)

    monkeypatch.setattr(house.engine, "generate", watched)
    assert (await house.post(AUDIT, {})).json()["audited"] == 3
    assert held == {(1,), (1, "d" * 64), (1, "d" * 64, "e" * 64)}
    assert (group.in_flight, house.registry.leased) == (0, [])


async def test_a_prompt_that_cannot_be_answered_is_told(make_house: Callable[..., House]) -> None:
    house = make_house()
    house.engine.ready = replace(READY, max_model_len=4096, num_blocks=512)
    await house.post("/v1/chat/completions", chat())
    house.engine.failure = EngineFailure("adapter_unavailable", "gone")
    body = (await house.post(AUDIT, {})).json()
    assert (body["known"], body["audited"], body["items"][0]["error"]) == (1, 0, "gone")


@pytest.mark.parametrize("body", [{"sample": 0}, {"sample": 33}, {"max_tokens": 0}, {"max_tokens": 65}, {"x": 1}, []])
async def test_what_is_asked_is_checked(house: House, body: Any) -> None:
    assert (await house.post(AUDIT, body)).status_code == 400


async def test_it_is_for_admins(house: House) -> None:
    assert (await house.post(AUDIT, {}, Authorization=f"Bearer {OTHER}")).status_code == 403
    assert (await house.post(AUDIT, {"tenant": "nobody"})).json()["known"] == 0
