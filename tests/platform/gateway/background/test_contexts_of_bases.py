"""Contexts and marks of several base models: each is computed and held by the engines that its requests run on."""

from __future__ import annotations

from dataclasses import replace as changed
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from tests.platform.gateway.background.conftest import BLOCK, RULES, ContextHouse, ScriptedCache
from tests.platform.gateway.house import READY, FakeClient
from tests.platform.registry.house import adapter_files, base_model

from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.replica import EngineReplica
from multiflora_platform.gateway.background.context_warming import ContextWarmer
from multiflora_platform.groups import Group, ServedModel
from multiflora_platform.registry.serving.base_links import BaseLink
from multiflora_platform.registry.serving.engine_link import EngineLink
from multiflora_platform.text.tokenizer import Tokenizer

DIGEST = "c" * 64
SYSTEM = [{"role": "system", "content": RULES}]
ASKED: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
MARK = {"cache_control": {"type": "ephemeral"}}


class Other(SimpleNamespace):
    """A second base model, `other`, with its adapter `poet`: its engine, what that has cached, and its group."""

    client: FakeClient
    supervisor: Any
    cache: ScriptedCache
    group: Group
    link: BaseLink


@pytest.fixture
async def other(contexts: ContextHouse, other_tokenizer: Tokenizer) -> Other:
    ready = replace(READY, max_model_len=1024, num_blocks=128, kv_bytes=2560)
    made = Other(client=FakeClient(other_tokenizer, reply="x", ready=ready))
    made.supervisor = SimpleNamespace(client=made.client, state="ready", restarts=0, pid=None)
    made.cache = ScriptedCache(contexts.house, made.client, made.supervisor, DIGEST)
    engine = Fleet([EngineReplica("other-0", made.supervisor)])
    model = ServedModel("other", "org/other", other_tokenizer, other_tokenizer.vocab_size, 1024, 1_600_000_000)
    made.group = Group(model, DIGEST, engine, SimpleNamespace())  # type: ignore[arg-type]
    made.link = BaseLink(changed(base_model(DIGEST), name="other"), EngineLink(engine))
    await load(contexts, made)
    await contexts.registry.admin.post("/adapters", json={"name": "poet"})
    files = adapter_files(7, base_model_name_or_path="org/other")
    assert (await contexts.registry.upload("poet", files)).status_code == 201
    return made


async def load(contexts: ContextHouse, other: Other) -> None:
    await contexts.registry.registry.add_base(other.link, ["other"])
    contexts.house.services.groups.add(other.group)


async def unload(contexts: ContextHouse, other: Other) -> None:
    contexts.house.services.groups.remove(other.group)
    await contexts.registry.registry.remove_base(DIGEST, ["other"])


async def test_a_context_of_another_base_is_computed_and_held_there(contexts: ContextHouse, other: Other) -> None:
    made = await contexts.put("rules", messages=SYSTEM, adapters=["poet"])
    await contexts.keeper.tend()
    (request,) = other.client.requests
    assert not contexts.house.engine.requests
    assert request.adapter_digest == contexts.registry.registry.adapter("poet").digests[1]
    assert other.client.tokenizer.decode(request.prompt_token_ids) == f"[Rules: {RULES}]["
    shown = await contexts.get("rules")
    tokens = len(request.prompt_token_ids)
    assert (shown["status"], shown["held"], shown["tokens"], made["tokens"]) == ("warm", True, tokens, tokens)
    assert shown["bytes"] == tokens // BLOCK * 20, "of its own blocks"
    assert shown["adapters"]["poet"]["base_models"] == ["other"]
    asked = {"model": "poet", "max_tokens": 1, "context": "rules", "messages": ASKED}
    answer = await contexts.acme.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 200, answer.text
    assert other.client.requests[-1].prompt_token_ids[:tokens] == request.prompt_token_ids


async def test_one_context_may_have_models_of_several_bases(contexts: ContextHouse, other: Other) -> None:
    """Its tokens are those of the template that makes most of it, its bytes of both caches together."""
    await contexts.put("rules", messages=SYSTEM, adapters=["base", "other", "poet"])
    await contexts.keeper.tend()
    (mine,), theirs = contexts.house.engine.requests, other.client.requests
    assert [request.adapter_digest is None for request in theirs] == [True, False]
    counts = [len(mine.prompt_token_ids), len(theirs[0].prompt_token_ids)]
    assert counts[0] != counts[1]
    shown = await contexts.get("rules")
    assert (shown["status"], shown["held"], shown["tokens"]) == ("warm", True, max(counts))
    assert shown["bytes"] == counts[0] // BLOCK * 10 + 2 * (counts[1] // BLOCK) * 20
    bases = {name: one["base_models"] for name, one in shown["adapters"].items()}
    assert bases == {"base": ["base"], "other": ["other"], "poet": ["other"]}
    assert (len(contexts.cache.pins), len(other.cache.pins)) == (1, 2)
    (entry,) = contexts.house.services.contexts.book.all()
    assert [entry.definition.tokens_on(one) for one in (contexts.registry.base.digest, DIGEST)] == counts
    await contexts.acme.delete("/api/v1/contexts/rules")
    await contexts.keeper.tend()
    assert not contexts.cache.pins
    assert not other.cache.pins


async def test_without_models_a_context_is_the_default_bases_alone(contexts: ContextHouse, other: Other) -> None:
    await contexts.put("rules")
    await contexts.keeper.tend()
    assert len(contexts.house.engine.requests) == 1
    assert not other.client.requests


async def test_an_engine_of_another_base_that_died_computes_again(contexts: ContextHouse, other: Other) -> None:
    await contexts.put("rules", prompt=RULES, adapters=["base", "other"])
    await contexts.keeper.tend()
    other.cache.restart()
    await contexts.keeper.tend()
    assert (len(contexts.house.engine.requests), len(other.client.requests)) == (1, 2)
    assert (await contexts.get("rules"))["held"]


async def test_engines_that_idle_are_not_woken_and_hold_again_when_they_are_back(
    contexts: ContextHouse, other: Other
) -> None:
    await contexts.put("rules", prompt=RULES, adapters=["other"])
    await contexts.keeper.tend()
    (replica,) = other.group.engine.replicas
    ready, other.client.ready = other.client.ready, None
    replica.retired = True  # type: ignore[misc]
    other.group.waker = SimpleNamespace(asleep=True)  # type: ignore[assignment]
    await contexts.keeper.tend()
    shown = await contexts.get("rules")
    assert (shown["status"], shown["held"], shown["bytes"]) == ("cold", False, 0)
    assert "idle" in shown["adapters"]["other"]["error"]
    assert contexts.keeper.of(other.group).holds.held() == []
    assert len(other.client.requests) == 1
    await contexts.put("more", prompt=RULES * 2, adapters=["other"])
    other.cache.restart()
    other.client.ready, other.group.waker = ready, None
    replica.retired = False  # type: ignore[misc]
    await contexts.keeper.tend()
    assert [(await contexts.get(name))["held"] for name in ("rules", "more")] == [True, True]


async def test_an_unloaded_base_gives_back_what_it_held_and_holds_again_when_it_is_loaded(
    contexts: ContextHouse, other: Other
) -> None:
    await contexts.put("rules", prompt=RULES, adapters=["base", "poet"])
    await contexts.keeper.tend()
    before = contexts.keeper.of(other.group)
    await unload(contexts, other)
    await contexts.keeper.tend()
    assert other.group not in contexts.keeper._keepers
    shown = await contexts.get("rules")
    assert (shown["status"], shown["held"]) == ("partial", False)
    assert shown["adapters"]["base"]["status"] == "warm"
    assert shown["adapters"]["poet"]["base_models"] == []
    assert shown["adapters"]["poet"]["error"]
    other.cache.restart()
    await load(contexts, other)
    await contexts.keeper.tend()
    assert contexts.keeper.of(other.group) is not before
    shown = await contexts.get("rules")
    assert (shown["status"], shown["held"]) == ("warm", True)
    assert len(contexts.house.engine.requests) == 1, "the default base model's had not gone"


async def test_the_budget_is_each_bases_own(contexts: ContextHouse, other: Other) -> None:
    """A quarter of 128 blocks of each."""
    await contexts.put("mine", prompt="a" * 30 * BLOCK)
    await contexts.put("theirs", prompt="b" * 30 * BLOCK, adapters=["other"])
    for model, base in (("poet", "other"), ("base", "base")):
        body = {"prompt": "c" * 3 * BLOCK, "adapters": [model]}
        full = await contexts.acme.put("/api/v1/contexts/more", json=body)
        assert (full.status_code, full.json()["type"].rpartition(":")[2]) == (409, "context-budget")
        assert f"25% of {base!r}'s cache" in full.json()["detail"]
    await contexts.put("more", prompt="d" * 2 * BLOCK, adapters=["other", "base"])
    await contexts.keeper.tend()
    assert [(await contexts.get(name))["held"] for name in ("mine", "theirs", "more")] == [True] * 3


async def test_marks_are_held_by_the_engines_that_computed_them(contexts: ContextHouse, other: Other) -> None:
    system = [{"type": "text", "text": RULES, **MARK}]
    asked = {"model": "poet", "max_tokens": 1, "system": system, "messages": ASKED}
    answer = await contexts.acme.post("/v1/messages", json=asked)
    assert answer.status_code == 200, answer.text
    kept = contexts.keeper.of(other.group)
    while kept.breakpoints._tasks:
        for task in list(kept.breakpoints._tasks):
            await task
    (held,) = kept.holds.held()
    assert (held.blocks, held.adapter, held.tenant) == (len(f"[Rules: {RULES}]") // BLOCK, "poet", "acme")
    assert (len(other.cache.pins), contexts.cache.pins) == (1, set())
    contexts.kept.meter.count()
    kept.meter._at -= 100
    kept.meter.count()
    page = (await contexts.house.http.get("/metrics")).text
    lines = [line for line in page.splitlines() if line.startswith("multiflora_held_token_seconds_total")]
    assert [line.partition(" ")[0] for line in lines] == [
        'multiflora_held_token_seconds_total{adapter="poet",model_name="other"}'
    ]


async def test_what_requests_find_of_a_context_is_counted_by_the_tokens_of_their_base(
    contexts: ContextHouse, other: Other
) -> None:
    await contexts.put("rules", messages=SYSTEM, adapters=["base", "other"])
    asked = {"max_tokens": 1, "context": "rules", "messages": [{"role": "user", "content": "x" * 300}]}
    for model in ("base", "other"):
        answer = await contexts.acme.post("/v1/chat/completions", json={**asked, "model": model})
        assert answer.status_code == 200, answer.text
    (entry,) = contexts.house.services.contexts.book.all()
    counts = entry.definition.tokens_of
    assert counts[contexts.registry.base.digest] != counts[DIGEST]
    assert (await contexts.get("rules"))["found_tokens"] == sum(counts.values()), "half of each prompt was cached"


async def test_a_version_on_another_base_has_its_contexts_before_the_alias_means_it(
    contexts: ContextHouse, other: Other
) -> None:
    await contexts.put("rules", prompt=RULES, adapters=["poet"])
    services = contexts.house.services
    warmer = ContextWarmer(other.group.engine, other.group.model, contexts.registry.keys, services.contexts.book)
    contexts.registry.registry._links.add(changed(other.link, warm_contexts=warmer.run))
    await contexts.registry.upload("poet", adapter_files(8, base_model_name_or_path="org/other"))
    etag = await contexts.registry.etag("poet", "default")
    moved = await contexts.registry.admin.put(
        "/adapters/poet/aliases/default", json={"version": 2}, headers={"If-Match": etag}
    )
    assert moved.is_success, moved.text
    (request,) = other.client.requests
    assert request.adapter_digest == contexts.registry.registry.adapter("poet").digests[2]
    assert request.prompt_token_ids == other.client.tokenizer.encode(RULES)


async def test_a_split_between_two_bases_is_computed_on_both(contexts: ContextHouse, other: Other) -> None:
    files = adapter_files(9, base_model_name_or_path="org/tiny")
    assert (await contexts.registry.upload("poet", files)).status_code == 201
    etag = await contexts.registry.etag("poet", "default")
    split = await contexts.registry.admin.put(
        "/adapters/poet/aliases/default", json={"split": {"1": 90, "2": 10}}, headers={"If-Match": etag}
    )
    assert split.is_success, split.text
    await contexts.put("rules", prompt=RULES, adapters=["poet"])
    await contexts.keeper.tend()
    digests = contexts.registry.registry.adapter("poet").digests
    assert [request.adapter_digest for request in contexts.house.engine.requests] == [digests[2]]
    assert [request.adapter_digest for request in other.client.requests] == [digests[1]]
    shown = await contexts.get("rules")
    assert (shown["held"], sorted(shown["adapters"]["poet"]["base_models"])) == (True, ["base", "other"])
