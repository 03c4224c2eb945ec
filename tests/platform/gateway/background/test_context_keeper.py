"""Contexts are computed, held, found by requests that name them, and computed again when they are lost."""

from __future__ import annotations

import dataclasses
import time
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from tests.platform.fleet.lines import Line, fleet_of
from tests.platform.gateway.background.conftest import BLOCK, RULES, ContextHouse
from tests.platform.registry.house import adapter_files

from multiflora_engine.cache.block_hashes import HASH_BYTES
from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.protocol.messages import CacheReply, EngineStats
from multiflora_platform.auth.principals import Principal
from multiflora_platform.contexts.entry import ContextEntry
from multiflora_platform.gateway.background import context_prefixes, context_warming, group_keeper
from multiflora_platform.gateway.background.context_keeper import ContextKeeper
from multiflora_platform.gateway.background.context_warming import ContextWarmer
from multiflora_platform.gateway.prompting.named_contexts import completion_with_context
from multiflora_platform.gateway.prompting.tokenize import MAX_PROMPTS
from multiflora_platform.gateway.schemas.requests import CompletionRequest
from multiflora_platform.web.openai_errors import invalid

CHAT = {"model": "base", "max_tokens": 1, "context": "rules", "messages": [{"role": "user", "content": "Hello"}]}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


async def test_a_context_is_computed_in_the_background_and_held(contexts: ContextHouse) -> None:
    made = await contexts.put("rules")
    assert (made["status"], made["held"], made["cached_tokens"]) == ("computing", False, 0)
    await contexts.keeper.tend()
    shown = await contexts.get("rules")
    (request,) = contexts.house.engine.requests
    assert request.background
    assert request.params.max_tokens == 1
    assert (shown["status"], shown["held"]) == ("warm", True)
    whole = shown["tokens"] // BLOCK * BLOCK
    assert 0 < shown["cached_tokens"] == whole <= shown["tokens"] == len(request.prompt_token_ids)
    assert shown["bytes"] == whole // BLOCK * 10
    assert shown["adapters"] == {
        "base": {"status": "warm", "cached_tokens": whole, "base_models": ["base"], "error": None}
    }
    contexts.cache.lose_all()
    assert (await contexts.get("rules"))["status"] == "warm", "it is pinned"
    await contexts.keeper.tend()
    assert len(contexts.house.engine.requests) == 1


async def test_a_request_that_names_a_context_is_the_whole_conversation(contexts: ContextHouse) -> None:
    await contexts.put("rules", messages=[{"role": "system", "content": RULES}], tools=[TOOL])
    await contexts.keeper.tend()
    (warmed,) = contexts.house.engine.requests
    answer = await contexts.acme.post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == 200, answer.text
    asked = contexts.house.engine.requests[-1]
    whole = [{"role": "system", "content": RULES}, *CHAT["messages"]]  # type: ignore[misc]
    resent = {"model": "base", "max_tokens": 1, "messages": whole, "tools": [TOOL]}
    await contexts.acme.post("/v1/chat/completions", json=resent)
    assert contexts.house.engine.requests[-1].prompt_token_ids == asked.prompt_token_ids
    assert asked.prompt_token_ids[: len(warmed.prompt_token_ids)] == warmed.prompt_token_ids
    assert asked.cache_salt == warmed.cache_salt
    assert (await contexts.get("rules"))["hits"] == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"input": "Hello", "max_output_tokens": 1}),
        ("/v1/messages", {"messages": CHAT["messages"], "max_tokens": 1}),
    ],
)
async def test_other_apis_name_contexts_too(contexts: ContextHouse, path: str, body: dict[str, Any]) -> None:
    await contexts.put("rules")
    asked = await contexts.acme.post("/v1/chat/completions", json=CHAT)
    answer = await contexts.acme.post(path, json={"model": "base", "context": "rules", **body})
    assert (asked.status_code, answer.status_code) == (200, 200), answer.text
    first, second = contexts.house.engine.requests
    assert first.prompt_token_ids == second.prompt_token_ids


@pytest.mark.parametrize("prompt", ["Hello", ["Hello", "Bye"], [1, 2, 3], [[1, 2], [3]]])
async def test_a_completion_begins_with_the_contexts_prompt(contexts: ContextHouse, prompt: Any) -> None:
    await contexts.put("text", prompt=RULES)
    body = {"model": "base", "max_tokens": 1, "prompt": prompt}
    answer = await contexts.acme.post("/v1/completions", json={**body, "context": "text"})
    assert answer.status_code == 200, answer.text
    own = list(RULES.encode())
    prompts = prompt if isinstance(prompt[0], str | list) and isinstance(prompt, list) else [prompt]
    encode = contexts.house.services.model.tokenizer.encode
    expected = [encode(RULES + p) if isinstance(p, str) else [*encode(RULES), *p] for p in prompts]
    assert [request.prompt_token_ids for request in contexts.house.engine.requests] == expected
    assert len(expected[0]) > len(own)


@pytest.mark.parametrize("part", ["Hello", [1, 2]])
async def test_too_many_prompts_are_refused_before_the_context_is_put_before_each(
    contexts: ContextHouse, part: Any
) -> None:
    await contexts.put("text", prompt=RULES)
    services = contexts.house.services
    prompts = [part] * (MAX_PROMPTS + 1)
    body = CompletionRequest(model="base", prompt=prompts, context="text")
    acme, tokenizer = Principal("tenant", "acme", "k"), services.model.tokenizer
    whole, _ = await completion_with_context(services.contexts.book, acme, body, 1, tokenizer)
    assert whole.prompt is prompts
    one = replace(body, prompt=[7] * len(prompts))
    whole, _ = await completion_with_context(services.contexts.book, acme, one, 1, tokenizer)
    assert whole.prompt == [*tokenizer.encode(RULES), *([7] * len(prompts))], "of ids: that is one prompt"
    asked = {"model": "base", "prompt": prompts, "context": "text"}
    answer = await contexts.acme.post("/v1/completions", json=asked)
    assert answer.status_code == 400
    assert f"prompt holds {MAX_PROMPTS + 1} prompts" in answer.json()["error"]["message"]


async def test_unknown_contexts_and_those_of_others_are_not_found(contexts: ContextHouse) -> None:
    await contexts.put("rules")
    await contexts.put("text", prompt=RULES)
    other = await contexts.tenant("other")
    for client, name, status, code in (
        (other, "rules", 404, "context_not_found"),
        (contexts.acme, "nothing", 404, "context_not_found"),
        (contexts.acme, "", 404, "context_not_found"),
        (contexts.acme, "text", 400, "invalid_value"),
        (contexts.house.http, "rules", 404, "context_not_found"),
    ):
        answer = await client.post("/v1/chat/completions", json={**CHAT, "context": name})
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert answer.json()["error"]["param"] == "context"
    bad = await contexts.acme.post("/v1/chat/completions", json={**CHAT, "messages": [{"role": "king"}]})
    assert bad.json()["error"]["param"] == "messages[0].role"
    assert (await other.get("/api/v1/contexts/rules")).status_code == 404
    assert (await other.get("/api/v1/contexts")).json()["items"] == []
    assert not contexts.house.engine.requests


async def test_it_is_computed_again_after_the_engines_death(contexts: ContextHouse) -> None:
    await contexts.put("rules")
    await contexts.keeper.tend()
    contexts.cache.restart()
    contexts.house.engine.ready, ready = None, contexts.house.engine.ready
    await contexts.keeper.tend()
    shown = await contexts.get("rules")
    assert (shown["status"], shown["cached_tokens"]) == ("cold", 0)
    contexts.house.engine.ready = ready
    await contexts.keeper.tend()
    shown = await contexts.get("rules")
    assert (shown["status"], shown["held"]) == ("warm", True)
    assert len(contexts.house.engine.requests) == 2
    assert "context.evicted" not in await contexts.events()


async def test_what_is_not_pinned_is_computed_again_when_the_engine_is_idle(contexts: ContextHouse) -> None:
    await contexts.put("rules", prompt=RULES, pin=False)
    await contexts.keeper.tend()
    assert (await contexts.get("rules"))["held"] is False
    assert not contexts.cache.pins
    contexts.cache.lose_all()
    contexts.house.engine.stats = EngineStats(running=1)
    (prefix,) = contexts.kept.prefixes.of(contexts.house.services.contexts.book.all()[0]).prefixes.values()
    for running, status in ((1, "cold"), (0, "warm")):
        contexts.house.engine.stats = replace(contexts.house.engine.stats, running=running)
        prefix.look_at = 0.0
        await contexts.keeper.tend()
        assert (await contexts.get("rules"))["status"] == status
    assert (await contexts.events()).count("context.evicted") == 1


async def test_expiry_ends_the_hold_and_is_told_once(contexts: ContextHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await contexts.put("rules", prompt=RULES, ttl="5m")
    assert made["expires_at"] > made["updated_at"]
    await contexts.keeper.tend()
    assert contexts.cache.pins
    book, changes = contexts.house.services.contexts.book, contexts.house.services.contexts.changes
    await contexts.acme.patch("/api/v1/contexts/rules", json={"ttl": 1})
    (entry,) = book.all()
    monkeypatch.setattr(type(entry), "is_over", lambda self, now: self.expires_at is not None)
    database, write = contexts.registry.database, contexts.registry.database.write

    async def later(actor: str, work: Any) -> Any:
        async def after(change: Any) -> Any:
            change.now = max(change.now, entry.expires_at)
            return await work(change)

        return await write(actor, after)

    monkeypatch.setattr(database, "write", later)
    await contexts.keeper.tend()
    await contexts.keeper.tend()
    assert not contexts.cache.pins
    assert (await contexts.events()).count("context.expired") == 1
    assert (await contexts.get("rules"))["held"] is False
    assert (await contexts.acme.get("/api/v1/contexts/rules")).status_code == 200
    await changes.expire(entry)
    assert (await contexts.events()).count("context.expired") == 1


async def test_deleting_and_replacing_let_go_of_what_was_held(contexts: ContextHouse) -> None:
    await contexts.put("rules")
    await contexts.put("same")
    await contexts.keeper.tend()
    (pin,) = contexts.cache.pins
    await contexts.acme.delete("/api/v1/contexts/same")
    await contexts.keeper.tend()
    assert contexts.cache.pins == {pin}, "the other one holds it"
    await contexts.put("rules", prompt=RULES * 2)
    await contexts.keeper.tend()
    assert len(contexts.cache.pins) == 1
    assert pin not in contexts.cache.pins
    await contexts.acme.delete("/api/v1/contexts/rules")
    await contexts.keeper.tend()
    assert not contexts.cache.pins
    assert (await contexts.acme.post("/v1/chat/completions", json=CHAT)).status_code == 404
    kinds = ["context.created", "context.created", "context.deleted", "context.updated", "context.deleted"]
    assert await contexts.events() == kinds


async def test_an_adapters_new_version_is_computed_and_the_old_one_let_go(contexts: ContextHouse) -> None:
    registry = contexts.registry
    await registry.adapter("a", 1)
    await contexts.put("rules", prompt=RULES, adapters=["a", "base"])
    await contexts.keeper.tend()
    first, second = contexts.house.engine.requests
    assert {first.adapter_digest, second.adapter_digest} == {None, registry.registry.adapter("a").digests[1]}
    assert len(contexts.cache.pins) == 2
    await registry.upload("a", adapter_files(2))
    etag = await registry.etag("a", "default")
    await registry.admin.put("/adapters/a/aliases/default", json={"version": 2}, headers={"If-Match": etag})
    await contexts.keeper.tend()
    shown = await contexts.get("rules")
    assert (shown["status"], set(shown["adapters"])) == ("warm", {"a", "base"})
    assert contexts.house.engine.requests[-1].adapter_digest == registry.registry.adapter("a").digests[2]
    assert len(contexts.cache.pins) == 2
    await registry.admin.delete("/adapters/a")
    shown = await contexts.get("rules")
    assert shown["status"] == "partial"
    assert "does not exist" in shown["adapters"]["a"]["error"]


async def test_what_has_not_changed_is_left_until_its_time(
    contexts: ContextHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change of the registry, of the engines or of the context is seen with the next turn."""
    looks: list[str] = []
    ask, targets = contexts.cache.cache, group_keeper.context_targets

    async def counted(action: str, *rest: Any, **named: Any) -> CacheReply:
        looks.append(action)
        return await ask(action, *rest, **named)

    def resolved(*arguments: Any) -> Any:
        looks.append("resolve")
        return targets(*arguments)

    monkeypatch.setattr(contexts.house.engine, "cache", counted)
    monkeypatch.setattr(group_keeper, "context_targets", resolved)
    monkeypatch.setattr(group_keeper, "_CHECKS_A_SECOND", 0.1)
    clock = SimpleNamespace(monotonic=lambda: now, time=time.time)
    for module in (group_keeper, context_prefixes):
        monkeypatch.setattr(module, "time", clock)
    now = 1000.0

    async def looked() -> set[str]:
        looks.clear()
        await contexts.keeper.tend()
        return set(looks)

    for name in ("rules", "others"):
        await contexts.put(name, prompt=name + RULES)
    assert await looked() == {"resolve", "find", "hold"}
    now += 19.9
    assert await looked() == set(), "two contexts, a look each ten seconds"
    await contexts.registry.adapter("a", 1)
    assert await looked() == {"resolve"}
    contexts.cache.restart()
    assert await looked() == {"resolve", "find", "hold"}
    assert len(contexts.cache.pins) == 2
    assert await looked() == set()
    await contexts.put("rules", prompt="rules" + RULES, ttl=60)
    assert await looked() == {"resolve", "find", "hold"}
    now += 20.1
    assert await looked() == {"resolve", "find", "hold"}


async def test_a_version_has_its_contexts_before_the_alias_means_it(contexts: ContextHouse) -> None:
    services, seen = contexts.house.services, []
    for name, adapters in (("follows", ["a"]), ("stays", ["a@1"]), ("base", [])):
        await contexts.registry.adapter("a", 1) if name == "follows" else None
        await contexts.put(name, prompt=name * 9, adapters=adapters)
    warmer = ContextWarmer(services.engine, services.model, contexts.registry.keys, services.contexts.book)
    links = contexts.registry.registry._links

    async def warm(name: str, digest: str) -> None:
        seen.append(contexts.registry.registry.adapter("a").aliases["default"].main_version)
        await warmer.run(name, digest)

    links.add(dataclasses.replace(links.default, warm_contexts=warm))
    await contexts.registry.upload("a", adapter_files(2))
    etag = await contexts.registry.etag("a", "default")
    moved = await contexts.registry.admin.put(
        "/adapters/a/aliases/default", json={"version": 2}, headers={"If-Match": etag}
    )
    assert moved.is_success, moved.text
    digest = contexts.registry.registry.adapter("a").digests[2]
    assert [request.adapter_digest for request in contexts.house.engine.requests] == [digest]
    assert contexts.house.engine.requests[0].prompt_token_ids == services.model.tokenizer.encode("follows" * 9)
    assert seen == [1], "the alias had not moved yet"


async def test_contexts_are_computed_before_a_move_whatever_form_names_the_adapter_and_whichever_fails(
    contexts: ContextHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = contexts.house.services
    await contexts.registry.adapter("a", 1)
    await contexts.put("first", prompt="fails" * 9, adapters=["a"])
    await contexts.put("gone", prompt="gone" * 9, adapters=["a@default"])
    await contexts.put("last", prompt="last" * 9, adapters=["base:a"])
    await contexts.put("other", prompt="other" * 9, adapters=["base"])
    warmer = ContextWarmer(services.engine, services.model, contexts.registry.keys, services.contexts.book)
    ids, unavailable = context_warming.context_ids, EngineUnavailable("engine_unavailable", "It restarts.")
    digest = contexts.registry.registry.adapter("a").digests[1]
    failures: dict[str, Exception] = {"fails": invalid("prompt", "No."), "gone": RuntimeError("The cache is full.")}

    async def failing(content: Any, *rest: Any) -> list[int]:
        for beginning, error in failures.items():
            if content.prompt.startswith(beginning):
                raise error
        return await ids(content, *rest)

    monkeypatch.setattr(context_warming, "context_ids", failing)
    await warmer.run("a", digest)
    (request,) = contexts.house.engine.requests
    assert request.prompt_token_ids == services.model.tokenizer.encode("last" * 9)
    failures["gone"] = unavailable
    with pytest.raises(EngineUnavailable):
        await warmer.run("a", digest)
    assert len(contexts.house.engine.requests) == 1


async def test_one_that_fails_keeps_no_other_waiting(contexts: ContextHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    await contexts.put("first", prompt=RULES, priority=0)
    await contexts.put("second", prompt=RULES * 2, priority=1)
    ids = contexts.kept.prefixes.ids

    async def failing(kept: Any) -> Any:
        if kept.entry.name == "first":
            raise ValueError("its template ran wild")
        return await ids(kept)

    monkeypatch.setattr(contexts.kept.prefixes, "ids", failing)
    await contexts.keeper.tend()
    assert len(contexts.house.engine.requests) == 1
    assert (await contexts.get("second"))["status"] == "warm"


async def test_holds_end_while_another_context_is_computed(contexts: ContextHouse) -> None:
    await contexts.put("held", prompt=RULES)
    await contexts.keeper.tend()
    contexts.house.engine.hangs = True
    await contexts.put("hangs", prompt=RULES * 2)
    contexts.keeper.start()
    await contexts.house.until(lambda: len(contexts.house.engine.requests) == 2)
    await contexts.acme.delete("/api/v1/contexts/held")
    await contexts.house.until(lambda: not contexts.cache.pins)
    await contexts.keeper.close()


async def test_what_is_held_while_an_expiry_is_written_stays_held(
    contexts: ContextHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    await contexts.put("old", prompt=RULES)
    is_over = ContextEntry.is_over
    monkeypatch.setattr(ContextEntry, "is_over", lambda self, now: self.name == "old" or is_over(self, now))

    async def slow(entry: Any) -> None:
        await contexts.put("fresh", prompt=RULES * 2)
        await contexts.kept.compute_missing()
        assert contexts.cache.pins

    monkeypatch.setattr(contexts.house.services.contexts.changes, "expire", slow)
    await contexts.keeper._end()
    assert contexts.cache.pins
    assert (await contexts.get("fresh"))["held"]


async def test_a_replica_that_comes_back_has_evicted_nothing(
    contexts: ContextHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is computed there at once, also while the others are busy."""
    await contexts.put("rules")
    services, lines = contexts.house.services, [Line(), Line()]
    fleet = fleet_of(*lines)
    cached = {"0": False, "1": False}

    def cache_of(id: str) -> Any:
        async def cache(action: str, hash: str = "", chain: bytes = b"", first: int = 0) -> CacheReply:
            return CacheReply(0, found=len(chain) // HASH_BYTES if cached[id] else 0)

        return cache

    async def warm(engines: Any, *rest: Any) -> None:
        cached.update({engine.id: True for engine in engines})

    monkeypatch.setattr(group_keeper, "warm_prompt", warm)
    for replica, line in zip(fleet.replicas, lines, strict=True):
        monkeypatch.setattr(line, "cache", cache_of(replica.id))
    monkeypatch.setattr(services.groups.default, "engine", fleet)
    names = ("settings", "groups", "registry", "keys", "contexts", "usage", "metrics")
    parts: Any = SimpleNamespace(**{name: getattr(services, name) for name in names})
    keeper = ContextKeeper(parts)
    await keeper.tend()
    assert cached == {"0": True, "1": True}
    lines[1].ready, cached["1"] = None, False
    fleet.replicas[1].supervisor.restarts += 1
    await keeper.tend()
    assert cached == {"0": True, "1": False}
    lines[1].ready, lines[0].stats = lines[0].ready, EngineStats(running=1)
    await keeper.tend()
    assert cached == {"0": True, "1": True}
    assert "context.evicted" not in await contexts.events()


async def test_a_restart_of_the_server_keeps_definitions_and_hits(contexts: ContextHouse) -> None:
    made = await contexts.put("rules")
    await contexts.acme.post("/v1/chat/completions", json=CHAT)
    services = contexts.house.services
    await services.contexts.close()
    again = await type(services.contexts).open(contexts.registry.database, contexts.registry.follower)
    (entry,) = again.book.all()
    assert (entry.name, entry.tenant, again.book.use(entry).hits) == ("rules", "acme", 1)
    assert entry.definition.tokens == made["tokens"]
