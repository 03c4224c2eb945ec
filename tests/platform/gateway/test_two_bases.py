"""Two base models in one server: whichever a request's model belongs to reads, computes and writes it, and no other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from tests.platform.gateway.house import ADMIN, BASE_DIGEST, READY, TENANT, FakeClient, House

from multiflora_engine.process.supervisor import EngineFailed
from multiflora_engine.protocol.cache_change import CacheChange
from multiflora_engine.protocol.messages import CacheNode, CacheReply, EngineStats, Fatal
from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.replica import EngineReplica
from multiflora_platform.groups import Group, ServedModel
from multiflora_platform.registry.snapshot.snapshot import AdapterShape, Resolved
from multiflora_platform.structured.compiler import GrammarCompiler
from multiflora_platform.text.template_lint import TemplateFinding
from multiflora_platform.text.tokenizer import Tokenizer

OTHER_DIGEST, ADAPTER_DIGEST = "c" * 64, "e" * 64
OTHER_READY = replace(READY, max_model_len=99)


class SlowWaker:
    """Wakes the group's engine when it is let."""

    def __init__(self, client: FakeClient) -> None:
        self.client = client
        self.asleep = True
        self.may_start = asyncio.Event()
        self.asked = 0
        self.fails = False

    async def wake(self) -> None:
        self.asked += 1
        await self.may_start.wait()
        if self.fails:
            raise EngineFailed(Fatal("internal", "The disk is gone."))
        self.client.ready, self.asleep = OTHER_READY, False


@pytest.fixture
async def bases(
    make_house: Callable[..., House], other_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[House, FakeClient]]:
    """The house's base model with its adapter sql, and `other` with its adapter poet."""
    house = make_house()
    client = FakeClient(other_tokenizer, reply="Other words", ready=OTHER_READY)
    supervisor = SimpleNamespace(client=client, state="ready", restarts=0, pid=None)
    engine = Fleet([EngineReplica("other-0", supervisor)])
    tokenizer = other_tokenizer
    model = ServedModel("other", "org/other", tokenizer, tokenizer.vocab_size, 99, 1_600_000_000)
    grammars = GrammarCompiler(tokenizer, tokenizer.vocab_size, frozenset({tokenizer.eos_token_id or 0}))
    house.services.groups.add(Group(model, OTHER_DIGEST, engine, grammars))
    resolve = house.registry.resolve

    def resolve_both(name: str, user: str | None) -> Resolved | None:
        if name.partition("@")[0] == "poet":
            return Resolved("poet", 1, ADAPTER_DIGEST, "default", AdapterShape(), base_digest=OTHER_DIGEST)
        return resolve(name, user)

    monkeypatch.setattr(house.registry, "resolve", resolve_both)
    async with house.http:
        yield house, client
    await house.services.grammars.close()
    await grammars.close()


def other_of(house: House) -> Group:
    group = house.services.groups.named("other")
    assert group is not None
    return group


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}


@pytest.mark.parametrize(
    ("model", "adapter"), [("other", None), ("poet", ADAPTER_DIGEST), ("other:poet", ADAPTER_DIGEST)]
)
async def test_the_base_that_is_meant_reads_computes_and_writes(
    bases: tuple[House, FakeClient], model: str, adapter: str | None
) -> None:
    house, client = bases
    answer = (await house.post("/v1/chat/completions", chat(model))).json()
    assert answer["choices"][0]["message"]["content"] == "Other words"
    (request,) = client.requests
    assert request.adapter_digest == adapter
    assert client.tokenizer.decode(request.prompt_token_ids) == "[hi]"
    assert not house.engine.requests
    mine = (await house.post("/v1/chat/completions", chat("sql"))).json()
    assert mine["choices"][0]["message"]["content"] == "Hello, wörld!"
    assert len(client.requests) == 1
    assert mine["system_fingerprint"] != answer["system_fingerprint"]


async def test_streams_completions_embeddings_and_tokens_go_to_that_base_too(bases: tuple[House, FakeClient]) -> None:
    house, client = bases
    events = await house.events("/v1/chat/completions", chat("other"))
    assert "".join(e["choices"][0]["delta"].get("content") or "" for e in events[:-1] if e["choices"]) == "Other words"
    done = (await house.post("/v1/completions", {"model": "poet", "prompt": "ab", "max_tokens": 50})).json()
    assert done["choices"][0]["text"] == "Other words"
    await house.post("/v1/embeddings", {"model": "other", "input": "ab"})
    assert [client.tokenizer.decode(one.prompt_token_ids) for one in client.requests] == ["[hi]", "ab", "ab"]
    tokens = (await house.post("/tokenize", {"model": "other", "prompt": "ab"})).json()
    assert tokens["tokens"] == client.tokenizer.encode("ab", False)
    assert tokens["max_model_len"] == 99
    text = (await house.post("/detokenize", {"model": "poet", "tokens": tokens["tokens"]})).json()
    assert text == {"prompt": "ab"}
    info = (await house.http.get("/tokenizer_info", params={"model": "other"})).json()
    assert info["chat_template"].startswith("{% for message in messages %}[")
    assert not house.engine.requests


async def test_the_list_names_both_and_each_adapters_own(bases: tuple[House, FakeClient]) -> None:
    house, _ = bases
    cards = {card["id"]: card for card in (await house.http.get("/v1/models")).json()["data"]}
    assert (cards["base"]["max_model_len"], cards["other"]["max_model_len"]) == (256, 99)
    assert cards["sql"]["parent"] == "base"
    assert (await house.http.get("/v1/models/poet@1")).json()["parent"] == "other"


async def test_adapters_of_two_bases_are_never_mixed(bases: tuple[House, FakeClient]) -> None:
    house, client = bases
    mixed = await house.post("/v1/chat/completions", chat("base", adapters=[{"name": "poet", "weight": 0.5}]))
    assert mixed.status_code == 400
    assert "'poet' belongs to another base model than 'base'" in mixed.json()["error"]["message"]
    assert not client.requests


async def test_metrics_tell_of_each_base_under_its_own_name(bases: tuple[House, FakeClient]) -> None:
    house, client = bases
    client.stats = EngineStats(free_blocks=1, num_blocks=4)
    for model in ("base", "sql", "poet", "poet"):
        await house.post("/v1/completions", {"model": model, "prompt": "abc", "max_tokens": 5})
    page = (await house.http.get("/metrics")).text
    lines = dict(line.rsplit(" ", 1) for line in page.splitlines() if line[0] != "#")
    told = {
        'vllm:prompt_tokens_total{model_name="base"}': "6.0",
        'vllm:prompt_tokens_total{model_name="other"}': "6.0",
        'multiflora_requests_total{adapter="sql",model_name="base",outcome="ok"}': "1.0",
        'multiflora_requests_total{adapter="poet",model_name="other",outcome="ok"}': "2.0",
        'multiflora_tenant_requests_total{model_name="other",outcome="ok",tenant="(admin)"}': "2.0",
        'vllm:kv_cache_usage_perc{model_name="other"}': "0.75",
        'multiflora_engine_state{model_name="other",state="ready"}': "1.0",
        'multiflora_replica_ready{model_name="base",replica="0"}': "1.0",
        'multiflora_replica_ready{model_name="other",replica="other-0"}': "1.0",
    }
    assert {name: lines.get(name) for name in told} == told
    families = [line.split()[2] for line in page.splitlines() if line.startswith("# TYPE")]
    assert sorted(families) == sorted(set(families))
    # The machine's are there once.
    of_the_gateway = [name for name in lines if 'process="gateway"' in name]
    assert 'multiflora_resident_memory_bytes{model_name="base",process="gateway"}' in of_the_gateway
    assert all('model_name="base"' in name for name in of_the_gateway)


async def test_a_base_without_engines_has_no_metrics_of_them(bases: tuple[House, FakeClient]) -> None:
    """What does not run on purpose must not look like what has failed."""
    house, _ = bases
    await house.post("/v1/completions", {"model": "other", "prompt": "abc", "max_tokens": 5})
    (replica,) = other_of(house).engine.replicas
    replica.retired = True  # type: ignore[misc]
    page = (await house.http.get("/metrics")).text
    assert 'multiflora_engine_state{model_name="base"' in page
    assert 'multiflora_engine_state{model_name="other"' not in page
    assert 'replica="other-0"' not in page
    assert 'vllm:prompt_tokens_total{model_name="other"} 3.0' in page


async def test_what_a_token_takes_is_each_bases_own(bases: tuple[House, FakeClient]) -> None:
    """Of six tokens three are computed, in one step."""
    house, client = bases
    house.engine.device_seconds, client.device_seconds = 0.3, 30.0
    for model in ("base", "poet"):
        await house.post("/v1/completions", {"model": model, "prompt": "abcdef", "max_tokens": 1})
    savings = house.services.insight.savings
    per_token = [savings[base].seconds_per_token() for base in (BASE_DIGEST, OTHER_DIGEST)]
    assert per_token == pytest.approx([0.1, 10.0])
    saved = [(one.adapter, one.tokens, one.device_seconds) for one in savings[OTHER_DIGEST].items()]
    assert saved == [("poet", 3, 30.0)]


@pytest.mark.parametrize("model", ["other", "poet", "other:poet"])
async def test_each_bases_cache_can_be_looked_at_and_steered(bases: tuple[House, FakeClient], model: str) -> None:
    house, client = bases
    hash, asked = "ab" * 32, {"model": model}
    client.stats = EngineStats(free_blocks=7, cached_blocks=5)
    ids = client.tokenizer.encode("verse", False)
    node = CacheNode(hash, None, None, "", 16, 1, 1, 1.0, 1.0, False, False)
    client.cache_reply = CacheReply(0, nodes=[node], token_ids=ids)
    await house.post("/v1/completions", {"model": "poet", "prompt": "abcdef", "max_tokens": 1})

    async def get(path: str, **query: str) -> Any:
        answer = await house.http.get(f"/api/v1/{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    mine, theirs = await get("cache"), await get("cache", **asked)
    assert [(one["free"], one["cached"], len(one["nodes"])) for one in (mine, theirs)] == [(0, 0, 0), (7, 5, 1)]
    assert [one["adapter"] for one in theirs["savings"]] == ["poet"]
    assert mine["savings"] == []
    assert theirs["nodes"][0]["replica"] == "other-0"
    assert (await get(f"cache/{hash}/text", **asked))["text"] == "verse"
    assert [one["replica"] for one in (await get("slots", **asked))["replicas"]] == ["other-0"]
    for path in (f"cache/{hash}:pin", f"cache/{hash}:unpin", f"cache/{hash}:drop", "cache:trace"):
        steered = await house.http.post(f"/api/v1/{path}", params={**asked, "replica": "other-0"})
        assert steered.status_code in (200, 204), steered.text
    assert [action for action, _ in client.cache_calls] == ["report", "tokens", "pin", "unpin", "drop", "trace"]
    assert [action for action, _ in house.engine.cache_calls] == ["report"]


@pytest.mark.parametrize("model", ["other", "poet"])
async def test_each_bases_cache_tells_its_own_events(bases: tuple[House, FakeClient], model: str) -> None:
    house, client = bases
    block = b"b" * 32
    client.cache_reply = CacheReply(0, held=[CacheChange(block)])

    async def events(**query: Any) -> list[tuple[str, list[str]]]:
        answer = await house.http.get("/api/v1/cache/events", params={"snapshot": True, **query})
        assert answer.status_code == 200, answer.text
        return [(item["type"], item["hashes"]) for item in answer.json()["items"]]

    assert await events() == [("cleared", [])]
    assert await events(model=model) == [("cleared", []), ("stored", [block.hex()])]
    assert await events(model=model, replica="other-0") == await events(model=model)
    none = await house.http.get("/api/v1/cache/events", params={"model": model, "replica": "0"})
    assert none.status_code == 404


async def test_what_would_fit_is_asked_of_each_bases_engines(bases: tuple[House, FakeClient]) -> None:
    house, client = bases
    client.ready = replace(OTHER_READY, num_blocks=3)
    body = {"ranks": [4], "context_tokens": 64}
    answers = [(await house.http.post("/api/v1/capacity", params=q, json=body)).json() for q in ({}, {"model": "poet"})]
    assert [one["blocks"] for one in answers] == [READY.num_blocks, 3]
    assert [one["fits_context"] for one in answers] == [True, False]
    assert [one["adapter_bytes"] for one in answers] == [4 * (8 + 16) * 4, 4 * (8 + 32) * 4]
    client.ready = None
    (replica,) = other_of(house).engine.replicas
    replica.supervisor.state = "stopped"  # type: ignore[attr-defined]
    away = await house.http.post("/api/v1/capacity", params={"model": "other"}, json=body)
    assert (away.status_code, away.json()["detail"]) == (503, "The engine is not ready; it is stopped.")


async def test_gauges_and_tokens_are_told_for_each_base_and_together(bases: tuple[House, FakeClient]) -> None:
    house, client = bases
    house.engine.stats = EngineStats(running=1, num_blocks=10, free_blocks=9)
    client.stats = EngineStats(running=2, waiting=3, num_blocks=8, free_blocks=2)
    for model in ("base", "other"):
        await house.post("/v1/completions", {"model": model, "prompt": "abc", "max_tokens": 50})
    house.services.insight._end_second(at_drift=False)
    (point,) = (await house.http.get("/api/v1/series")).json()["points"]
    assert (point["running"], point["waiting"], point["kv_use"]) == (3, 3, 0.75)
    of_both = [(one["running"], one["kv_blocks"], one["kv_blocks_used"]) for one in point["by_base"].values()]
    assert list(point["by_base"]) == ["base", "other"]
    assert of_both == [(1, 10, 1), (2, 8, 6)]
    assert point["by_model"].keys() == {"base", "other"}, "tokens of no adapter are their base model's"
    (replica,) = other_of(house).engine.replicas
    replica.retired = True  # type: ignore[misc]
    house.services.insight._end_second(at_drift=False)
    assert list((await house.http.get("/api/v1/series")).json()["points"][-1]["by_base"]) == ["base"]


async def test_an_engine_of_any_base_that_dies_is_an_alert_and_one_that_idles_is_none(
    bases: tuple[House, FakeClient],
) -> None:
    house, _ = bases
    (replica,) = other_of(house).engine.replicas
    replica.supervisor.state = "restarting"  # type: ignore[attr-defined]
    assert [alert.id for alert in house.services.insight.look()] == ["engine other-0"]
    replica.retired = True  # type: ignore[misc]
    assert house.services.insight.look() == []


async def test_readiness_tells_of_each_base_whom_it_concerns(bases: tuple[House, FakeClient]) -> None:
    """Without a key there are no names; what the server says of itself is the default base model's."""
    house, client = bases

    async def told(status: int = 200, **headers: str) -> Any:
        answer = await house.http.get("/health/ready", headers=headers)
        assert answer.status_code == status
        return answer.json()

    assert await told() == {"status": "ready", "models": {"base": "ready", "other": "ready"}}
    client.ready, other_of(house).waker = None, SlowWaker(client)
    assert (await told())["models"] == {"base": "ready", "other": "idle"}
    assert await told(Authorization="Bearer wrong") == {"status": "ready"}
    house.services.keys.set_policy(TENANT, allowed_adapters=("base",))
    assert (await told(Authorization=f"Bearer {TENANT}"))["models"] == {"base": "ready"}
    house.engine.ready, house.supervisor.state = None, "restarting"
    assert await told(503) == {"status": "restarting", "models": {"base": "restarting", "other": "idle"}}


async def test_warming_a_sleeping_base_wakes_it(bases: tuple[House, FakeClient]) -> None:
    house, client = bases
    group = other_of(house)
    client.ready, waker = None, SlowWaker(client)
    group.waker = waker
    waiting = asyncio.create_task(house.post("/api/v1/cache:warm", {"model": "poet", "prompt": "abcdef"}))
    await house.until(lambda: waker.asked)
    assert group.in_flight == 1, "or its engines might end again before it is computed"
    waker.may_start.set()
    assert (await waiting).status_code == 200
    (request,) = client.requests
    assert client.tokenizer.decode(request.prompt_token_ids) == "abcdef"
    assert group.in_flight == 0


async def test_an_engine_of_any_base_is_profiled(bases: tuple[House, FakeClient]) -> None:
    house, client = bases
    for replica, status in (("other-0", 202), ("none", 404)):
        client.profile_ends.set()
        answer = await house.http.post("/api/v1/profile", json={"kind": "python", "replica": replica})
        assert answer.status_code == status, answer.text
        await house.until(lambda: client.profiled)
    assert not house.engine.profiled
    await house.services.insight.profiles.close()


async def test_why_the_cache_had_no_more_goes_by_the_blocks_of_the_base(bases: tuple[House, FakeClient]) -> None:
    house, client = bases
    client.ready = replace(OTHER_READY, block_size=2)
    reasons = []
    for model in ("base", "other"):
        asked = {"model": model, "prompt": "abcdef", "max_tokens": 1}
        reasons.append((await house.post("/v1/completions", asked)).headers["x-cache-reason"])
    assert reasons == ["too_short", "none"]


async def test_a_cache_of_no_base_is_refused(bases: tuple[House, FakeClient]) -> None:
    house, _ = bases
    assert (await house.http.get("/api/v1/cache", params={"model": "none"})).status_code == 404
    tenants = {"Authorization": f"Bearer {TENANT}"}
    assert (await house.http.get("/api/v1/cache", params={"model": "other"}, headers=tenants)).status_code == 403


async def test_prompts_that_drift_are_read_by_their_own_base(bases: tuple[House, FakeClient]) -> None:
    house, client = bases
    client.ready = replace(OTHER_READY, max_model_len=400)
    guide = "You answer in two sentences and never guess; ask for the number first. Today is "
    for minute in range(10, 18):
        system = f"{guide}2026-11-30T09:{minute}:00Z. Be kind, be brief, and say so where you are not sure."
        messages = [{"role": "system", "content": system}, {"role": "user", "content": f"Who is {minute}?"}]
        asked = await house.post("/v1/chat/completions", chat("poet", messages=messages, max_tokens=1))
        assert asked.status_code == 200, asked.text
    (item,) = (await house.http.get("/api/v1/cache/drift")).json()["items"]
    assert (item["model"], item["kind"], item["prompts"]) == ("poet", "timestamp", 7)
    assert (item["message"], item["role"], item["position"]) == (0, "system", len(guide))
    assert "2026-11-30T09:" in item["example"]


async def test_each_bases_chat_template_is_looked_through(
    bases: tuple[House, FakeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    house, client = bases
    finding = TemplateFinding("template_date", 7, "It writes the day", "Write none.", "Monday")
    monkeypatch.setattr(client.tokenizer, "template_findings", [finding])

    async def found(key: str) -> list[tuple[str, str]]:
        headers = {"Authorization": f"Bearer {key}"}
        items = (await house.http.get("/api/v1/cache/drift", headers=headers)).json()["items"]
        return [(item["model"], item["kind"]) for item in items]

    assert await found(ADMIN) == await found(TENANT) == [("other", "template_date")]
    house.services.keys.set_policy(TENANT, allowed_adapters=("base", "sql"))
    assert await found(TENANT) == []


async def test_the_doctor_looks_at_each_base(bases: tuple[House, FakeClient], monkeypatch: pytest.MonkeyPatch) -> None:
    house, client = bases
    finding = TemplateFinding("template_date", 7, "It writes the day", "Write none.", "Monday")
    monkeypatch.setattr(client.tokenizer, "template_findings", [finding])
    items = (await house.http.get("/api/v1/doctor", headers={"Authorization": f"Bearer {ADMIN}"})).json()["items"]
    rows = {item["check"]: item for item in items}
    assert rows["chat template of base"]["ok"]
    found = rows["chat template of other"]
    assert (found["ok"], found["detail"], found["next_step"]) == (False, "It writes the day", "Write none.")
    assert {"engine sizes of base", "engine sizes of other"} <= rows.keys()


async def test_what_one_base_computed_explains_nothing_of_the_other(bases: tuple[House, FakeClient]) -> None:
    house, _ = bases
    asked = await house.post("/v1/chat/completions", chat("other"))
    body = {**chat("base"), "compare": asked.json()["id"]}
    assert (await house.post("/api/v1/cache:explain", body)).status_code == 404


async def test_a_base_that_is_gone_is_a_404_with_its_adapters_and_the_other_answers(
    bases: tuple[House, FakeClient],
) -> None:
    house, client = bases
    groups, group = house.services.groups, other_of(house)
    client.pace = 0.01
    running = asyncio.create_task(house.post("/v1/chat/completions", chat("poet")))
    await house.until(lambda: client.told)
    groups.remove(group)
    for model in ("other", "poet"):
        gone = await house.post("/v1/chat/completions", chat(model))
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")
    assert (await house.post("/v1/chat/completions", chat("base"))).status_code == 200
    assert (await running).json()["choices"][0]["message"]["content"] == "Other words"
    assert await group.wait_idle(0.0)


async def test_the_first_request_of_a_sleeping_base_wakes_it_and_is_answered(bases: tuple[House, FakeClient]) -> None:
    house, client = bases
    group = other_of(house)
    client.ready, waker = None, SlowWaker(client)
    group.waker = waker
    waiting = [asyncio.create_task(house.post("/v1/chat/completions", chat("other"))) for _ in range(3)]
    await house.until(lambda: waker.asked == 3)
    assert (await house.post("/v1/chat/completions", chat("base"))).status_code == 200
    waker.may_start.set()
    answers = [(await one).json()["choices"][0]["message"]["content"] for one in waiting]
    assert answers == ["Other words"] * 3
    assert group.in_flight == 0


async def test_who_does_not_want_to_wait_for_it_is_told_to_come_back(bases: tuple[House, FakeClient]) -> None:
    house, client = bases
    group = other_of(house)
    client.ready, group.waker = None, SlowWaker(client)
    late = await house.post("/v1/chat/completions", chat("other"), **{"X-Request-Timeout": "0.05"})
    assert (late.status_code, late.json()["error"]["code"]) == (503, "model_loading")
    assert int(late.headers["retry-after"]) > 0
    assert group.in_flight == 0


async def test_why_it_cannot_be_loaded_is_told(bases: tuple[House, FakeClient]) -> None:
    house, client = bases
    group = other_of(house)
    client.ready, waker = None, SlowWaker(client)
    group.waker = waker
    waker.fails = True
    waker.may_start.set()
    failed = await house.post("/v1/chat/completions", chat("other"))
    assert failed.status_code == 503
    assert "The disk is gone." in failed.json()["error"]["message"]
    assert group.in_flight == 0
