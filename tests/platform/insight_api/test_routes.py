"""What operators ask of a running gateway: the numbers, the requests, the cache, the slots, the machine."""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from tests.platform.gateway.house import ADMIN, BASE_DIGEST, TENANT, House

from multiflora_engine.profiling.process_memory import resident_bytes_of
from multiflora_engine.protocol.messages import CacheNode, CacheReply
from multiflora_engine.protocol.requests import EngineFailure
from multiflora_engine.protocol.traced_request import TracedRequest
from multiflora_platform.insight.kept_bodies import KeptBodies
from multiflora_platform.insight.logged_request import PromptFacts

CHAT = "/v1/chat/completions"
HASH, PARENT = "ab" * 32, "cd" * 32


def chat(model: str = "sql", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello there"}], **fields}


async def get(house: House, path: str, status: int = 200) -> Any:
    answer = await house.http.get(f"/api/v1/{path}")
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "series"),
        ("GET", "series/stream"),
        ("GET", "alerts"),
        ("GET", "activity"),
        ("GET", "cache"),
        ("GET", "cache/misses"),
        ("GET", "cache/losses"),
        ("GET", "cache/events"),
        ("GET", f"cache/{HASH}/text"),
        ("POST", f"cache/{HASH}:drop"),
        ("POST", "cache:warm"),
        ("POST", "cache:trace"),
        ("GET", "slots"),
        ("POST", "capacity"),
        ("GET", "settings"),
        ("GET", "doctor"),
    ],
)
async def test_all_of_it_is_for_admins(house: House, method: str, path: str) -> None:
    tenant = {"Authorization": f"Bearer {TENANT}"}
    assert (await house.http.request(method, f"/api/v1/{path}", headers=tenant, json={})).status_code == 403


async def test_bodies_and_answers_are_kept_where_that_is_asked_for(house: House) -> None:
    await house.http.post(CHAT, json=chat(max_tokens=3))
    (before,) = (await get(house, "requests"))["items"]
    assert (await get(house, f"requests/{before['id']}"))["body"] is None
    house.services.insight.bodies = KeptBodies(most_bytes=8192)
    answer = await house.http.post(CHAT, json=chat(n=2))
    newest = (await get(house, "requests"))["items"][0]
    assert newest["body"] is None
    body = (await get(house, f"requests/{newest['id']}"))["body"]
    assert body["request"]["messages"] == [{"role": "user", "content": "Hello there"}]
    assert body["answers"] == ["Hello, wörld!"] * 2
    assert body["answers"] == [choice["message"]["content"] for choice in answer.json()["choices"]]
    await house.http.post(CHAT, json=chat(max_tokens=3, user="x" * 8000))
    assert (await get(house, f"requests/{newest['id']}"))["body"] is None


@pytest.mark.parametrize(
    "fields", [{"stop": ["wör"]}, {"stop": "d", "include_stop_str_in_output": True}, {"skip_special_tokens": False}]
)
async def test_a_kept_answer_is_what_the_client_got(house: House, fields: dict[str, Any]) -> None:
    house.services.insight.bodies = KeptBodies()
    answer = await house.http.post(CHAT, json=chat(**fields))
    newest = (await get(house, "requests"))["items"][0]
    body = (await get(house, f"requests/{newest['id']}"))["body"]
    assert body["answers"] == [answer.json()["choices"][0]["message"]["content"]]


async def test_requests_are_remembered_with_their_stages(house: House) -> None:
    await house.http.post(CHAT, json=chat(max_tokens=3))
    await house.http.post(CHAT, json=chat("base", max_tokens=3), headers={"Authorization": f"Bearer {TENANT}"})
    house.engine.failure = EngineFailure("adapter_unavailable", "its file vanished")
    assert (await house.http.post(CHAT, json=chat())).status_code == 503
    failed, base, sql = (await get(house, "requests"))["items"]
    assert (sql["model"], sql["adapter"], sql["version"], sql["status"]) == ("sql", "sql", 3, 200)
    assert (sql["completion_tokens"], sql["finish_reason"], sql["path"], sql["stream"]) == (3, "length", CHAT, False)
    assert sql["cached_tokens"] == sql["prompt_tokens"] // 2
    assert [stage["stage"] for stage in sql["timeline"]] == ["queue", "prefill", "decode"]
    assert (base["adapter"], base["tenant"]) == (None, "acme")
    assert (failed["status"], failed["code"], failed["ttft"]) == (503, "adapter_unavailable", None)
    assert [item["id"] for item in (await get(house, "requests?model=base"))["items"]] == [base["id"]]
    assert [item["id"] for item in (await get(house, "requests?status=503"))["items"]] == [failed["id"]]
    page = await get(house, "requests?limit=2")
    rest = await get(house, f"requests?limit=2&page_token={page['next_page_token']}")
    assert [item["id"] for item in (*page["items"], *rest["items"])] == [failed["id"], base["id"], sql["id"]]
    assert rest["next_page_token"] is None
    assert (await get(house, f"requests/{sql['id']}"))["timeline"] == sql["timeline"]
    await get(house, "requests/unknown", 404)
    (alert,) = (await get(house, "alerts"))["items"]
    assert (alert["severity"], alert["link"]) == ("error", "/ui/adapters/sql")
    assert "its file vanished" in alert["detail"]


async def test_a_clients_own_deadline_is_no_error_of_the_server(house: House) -> None:
    insight = house.services.insight
    house.engine.failure = EngineFailure("deadline_exceeded", "The deadline passed.")
    late = await house.http.post(CHAT, json=chat(max_tokens=4), headers={"X-Request-Timeout": "0.02"})
    assert late.status_code == 504
    following = asyncio.create_task(anext(insight.points()))
    await asyncio.sleep(0)
    insight.start()
    point = await asyncio.wait_for(following, 30)
    await insight.close()
    assert (point.requests, point.errors) == (1, 0)


async def test_refused_requests_are_listed_with_their_code_and_how_often(house: House) -> None:
    limited, wrong = {"Authorization": f"Bearer {TENANT}"}, {"Authorization": "Bearer mf-wrong"}
    for _ in range(3):
        assert (await house.http.post(CHAT, json=chat("sqll"), headers=limited)).status_code == 404
    assert (await house.http.post(CHAT, json=chat(max_tokens=-1), headers=limited)).status_code == 400
    assert (await house.http.post(CHAT, content=b"{")).status_code == 400
    assert (await house.http.post(CHAT, json=chat(), headers=wrong)).status_code == 401
    await house.http.get("/v1/nothing")
    await get(house, "requests/unknown", 404)
    rows = (await get(house, "requests"))["items"]
    assert [(row["status"], row["code"], row["model"], row["tenant"], row["count"]) for row in rows] == [
        (404, "not_found", "", None, 1),
        (401, "invalid_api_key", "", None, 1),
        (400, "invalid_json", "", None, 1),
        (400, "invalid_value", "sql", "acme", 1),
        (404, "model_not_found", "sqll", "acme", 3),
    ]
    assert (await get(house, f"requests/{rows[-1]['id']}"))["count"] == 3


async def test_a_list_of_requests_is_compressed_and_told_only_what_changed(house: House) -> None:
    for _ in range(20):
        await house.http.post(CHAT, json=chat(max_tokens=1))
    plain = await house.http.get("/api/v1/requests", headers={"Accept-Encoding": "identity"})
    zipped = await house.http.get("/api/v1/requests", headers={"Accept-Encoding": "gzip, deflate"})
    assert ("content-encoding" in plain.headers, zipped.headers["content-encoding"]) == (False, "gzip")
    assert zipped.json() == plain.json()
    assert int(zipped.headers["content-length"]) * 5 < len(plain.content)
    page = plain.json()
    assert page["is_complete"]
    nothing = await get(house, f"requests?since={page['cursor']}")
    assert (nothing["items"], nothing["is_complete"]) == ([], False)
    await house.http.post(CHAT, json=chat("base", max_tokens=1))
    (new,) = (await get(house, f"requests?since={nothing['cursor']}"))["items"]
    assert new["model"] == "base"
    assert (await get(house, "requests?since=of-another.7"))["is_complete"]


async def test_the_series_counts_what_goes_by_and_is_followed_live(house: House) -> None:
    insight = house.services.insight
    await house.http.post(CHAT, json=chat(max_tokens=4))
    following = asyncio.create_task(anext(insight.points()))
    await asyncio.sleep(0)
    insight.start()
    point = await asyncio.wait_for(following, 30)
    await insight.close()
    assert point.by_model == {"sql": 4.0}
    assert (point.requests, point.errors) == (1, 0)
    assert (point.ended_by_model["sql"].requests, point.ended_by_model["sql"].p95_seconds > 0) == (1, True)
    (shown,) = (await get(house, "series?window=900"))["points"]
    assert shown["tokens_per_second"] == 4.0
    assert shown["ttft_p50"] > 0
    # The engine plays in here, with whatever processes the tests before have left.
    assert shown["engine_bytes"] == pytest.approx(resident_bytes_of([os.getpid()]), rel=0.1)
    assert shown["host_bytes"] == shown["gateway_bytes"] + shown["engine_bytes"]
    await get(house, "series?window=0", 400)


async def test_followers_end_when_the_server_does(house: House) -> None:
    points = house.services.insight.points()
    following = asyncio.create_task(anext(points))
    await asyncio.sleep(0)
    await house.services.drain(0.1)
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(following, 30)


async def test_the_cache_as_a_tree_with_names(house: House) -> None:
    common = {"hits": 4, "age_seconds": 9.0, "idle_seconds": 1.0, "pinned": False, "referenced": True}
    house.engine.cache_reply = CacheReply(
        0,
        nodes=[
            CacheNode(hash=PARENT, parent=None, adapter=None, owner="of-acme", tokens=32, blocks=2, **common),
            CacheNode(hash=HASH, parent=PARENT, adapter="d" * 64, owner="of-admins", tokens=16, blocks=1, **common),
        ],
    )
    await house.http.post(CHAT, json=chat(max_tokens=1))
    cache = await get(house, "cache")
    assert [(node["adapters"], node["digest"], node["parent"], node["owner"]) for node in cache["nodes"]] == [
        ([], None, None, "acme"),
        (["sql"], "d" * 64, PARENT, None),
    ]
    assert cache["blocks"] == 64
    (saving,) = cache["savings"]
    assert saving["adapter"] == "sql"
    assert saving["tokens"] > 0
    assert saving["device_seconds"] >= 0
    assert saving["money"] is None


async def test_with_prices_savings_are_told_in_money(make_house: Any) -> None:
    """What tokens take is learned from prefills; here, a hundredth of a second each."""
    house = make_house({"price_per_device_second": 2.0, "price_per_cached_token": 0.005, "currency": "EUR"})
    async with house.http:
        savings = house.services.insight.savings[BASE_DIGEST]
        savings._computed, savings._prefill_seconds = 10**9, 10.0**7
        house.engine.evicted_tokens = 2
        await house.http.post(CHAT, json=chat(max_tokens=1))
        (saving,) = (await get(house, "cache"))["savings"]
    tokens, (counted,) = saving["tokens"], house.services.usage.counted.values()
    assert tokens == counted.cached_tokens > 0
    assert saving["tokens_again"] == 2
    assert (counted.saved_us, counted.again_us) == pytest.approx((tokens * 10_000, 20_000), rel=1e-3)
    assert saving["money"]["currency"] == "EUR"
    assert saving["money"]["saved"] == pytest.approx(tokens * (0.02 - 0.005), rel=1e-3)
    assert saving["money"]["computed_again"] == pytest.approx(0.04, rel=1e-3)
    await house.services.grammars.close()


@pytest.mark.parametrize("fields", [{}, {"use_beam_search": True, "n": 2}])
async def test_what_was_computed_again_is_a_part_of_the_devices_time(house: House, fields: dict[str, Any]) -> None:
    """The engine says what its steps took, however long the gateway waits for them; a search's later ones are not the
    prompt's."""
    house.engine.device_seconds, house.engine.pace = 0.25, 0.3
    prompt = list(range(16))
    house.engine.evicted_tokens = len(prompt) - len(prompt) // 2
    await house.http.post("/v1/completions", json={"model": "sql", "prompt": prompt, "max_tokens": 2, **fields})
    (counted,) = house.services.usage.counted.values()
    assert counted.again_us == 250_000
    assert counted.device_us == (3 if fields else 2) * 250_000


async def test_steering_the_cache(house: House) -> None:
    for action in ("pin", "unpin", "drop"):
        assert (await house.http.post(f"/api/v1/cache/{HASH}:{action}")).status_code == 204
    assert house.engine.cache_calls == [("pin", HASH), ("unpin", HASH), ("drop", HASH)]
    assert house.registry.notes == [(f"cache.{action}", HASH) for action in ("pin", "unpin", "drop")]
    ids = house.services.model.tokenizer.encode("cached text", False)
    house.engine.cache_reply = CacheReply(0, token_ids=ids)
    assert await get(house, f"cache/{HASH}/text") == {"token_ids": ids, "text": "cached text"}
    assert (await get(house, f"cache/{HASH}/text?limit=1"))["token_ids"] == ids[:1]
    house.engine.cache_reply = CacheReply(0, error="That prefix is not cached any more.")
    answer = await house.http.post(f"/api/v1/cache/{HASH}:drop")
    assert (answer.status_code, answer.json()["detail"]) == (404, "That prefix is not cached any more.")
    assert (await house.http.post("/api/v1/cache/nonsense:drop")).status_code in (400, 404, 422)


async def test_a_trace_is_what_the_engine_recorded(house: House) -> None:
    house.engine.cache_reply = CacheReply(0, traced=[TracedRequest(["ab" * 8], 1, owner=2)], lost=3, has_more=True)
    answer = (await house.http.post("/api/v1/cache:trace")).json()
    assert answer == {
        "items": [{"blocks": ["ab" * 8], "prompt_blocks": 1, "owner": 2}],
        "lost": 3,
        "has_more": True,
    }
    assert house.engine.cache_calls[-1] == ("trace", "")


async def test_warming_a_prompt(house: House) -> None:
    answer = await house.http.post("/api/v1/cache:warm", json={"model": "sql", "prompt": "a long system prompt"})
    assert answer.status_code == 200
    request = house.engine.requests[-1]
    assert (request.adapter_digest, request.params.max_tokens, request.background) == ("d" * 64, 1, True)
    assert sum(answer.json().values()) == len(request.prompt_token_ids)
    unknown = await house.http.post("/api/v1/cache:warm", json={"model": "nobody", "prompt": "x"})
    assert unknown.status_code == 404
    long = await house.http.post("/api/v1/cache:warm", json={"model": "base", "prompt": "x" * 5000})
    assert long.status_code == 400
    assert "tokens" in long.json()["detail"]


@pytest.mark.parametrize("param", ["prompt", "messages"])
async def test_a_warmed_text_whose_token_the_model_lacks_is_blamed_on_the_text(house: House, param: str) -> None:
    model = house.services.model
    house.services.groups.default.model = replace(model, vocab_size=model.vocab_size - 1)
    text = {"prompt": "a<|assistant|>b", "messages": [{"role": "assistant", "content": "Hi"}]}[param]
    answer = await house.http.post("/api/v1/cache:warm", json={"model": "base", param: text})
    assert answer.status_code == 400, answer.text
    assert f"{param} holds '<|assistant|>', token {model.vocab_size - 1} of the tokenizer" in answer.json()["detail"]
    assert not house.engine.requests


async def test_what_is_shared_has_all_its_names_and_a_request_its_own(house: House) -> None:
    house.registry.digests["triage"] = house.registry.digests["sql"]
    common = {"hits": 1, "age_seconds": 9.0, "idle_seconds": 1.0, "pinned": False, "referenced": True}
    house.engine.cache_reply = CacheReply(
        0, nodes=[CacheNode(hash=HASH, parent=None, adapter="d" * 64, owner="", tokens=16, blocks=1, **common)]
    )
    await house.http.post(CHAT, json=chat("triage", max_tokens=1))
    (row,) = (await get(house, "requests"))["items"]
    assert (row["model"], row["adapter"], row["version"]) == ("triage", "triage", 3)
    assert [saving["adapter"] for saving in (await get(house, "cache"))["savings"]] == ["triage"]
    (node,) = (await get(house, "cache"))["nodes"]
    (replica,) = (await get(house, "slots"))["replicas"]
    for shared in (node, *replica["residents"], *replica["timeline"]):
        assert shared["versions"] == ["sql@3", "triage@3"]
        assert shared.get("names", shared.get("adapters")) == ["sql", "triage"]


TOOL = {"type": "function", "function": {"name": "f", "description": None, "parameters": {"type": "object"}}}


@pytest.mark.parametrize(("tenant", "key"), [(None, ADMIN), ("acme", TENANT)])
async def test_a_warmed_conversation_is_the_chat_that_begins_so(house: House, tenant: str | None, key: str) -> None:
    chat = {"model": "sql", "messages": [{"role": "system", "content": [{"type": "text", "text": "Be brief."}]}]}
    chat["tools"] = [TOOL]
    warmed = await house.http.post("/api/v1/cache:warm", json={**chat, **({"tenant": tenant} if tenant else {})})
    assert warmed.status_code == 200, warmed.text
    asked = await house.post("/v1/chat/completions", chat, authorization=f"Bearer {key}")
    assert asked.status_code == 200, asked.text
    first, second = house.engine.requests
    for name in ("prompt_token_ids", "cache_salt", "cache_owner", "cache_share", "adapter_digest"):
        assert getattr(first, name) == getattr(second, name), name


BAD_WARMING: dict[str, tuple[dict[str, Any], int, str | None]] = {
    "neither": ({}, 400, "/prompt"),
    "both": ({"prompt": "x", "messages": [{"role": "user", "content": "x"}]}, 400, "/prompt"),
    "no messages": ({"messages": []}, 400, "/messages"),
    "a role": ({"messages": [{"role": "nobody", "content": "x"}]}, 400, "/messages/0/role"),
    "tools of a text": ({"prompt": "x", "tools": [TOOL]}, 400, "/tools"),
    "too long": ({"messages": [{"role": "user", "content": "x" * 5000}]}, 400, "/messages"),
    "an unknown tenant": ({"prompt": "x", "tenant": "nobody"}, 404, None),
    "an unknown model": ({"prompt": "x", "model": "nobody"}, 404, "/model"),
    "a wrong type": ({"messages": "x"}, 400, "/messages"),
}


@pytest.mark.parametrize("name", BAD_WARMING)
async def test_what_cannot_be_warmed(house: House, name: str) -> None:
    fields, status, pointer = BAD_WARMING[name]
    answer = await house.http.post("/api/v1/cache:warm", json={"model": "base", **fields})
    assert answer.status_code == status, answer.text
    assert [error["pointer"] for error in answer.json().get("errors", ())] == ([pointer] if pointer else [])
    assert not house.engine.requests


async def test_a_tenant_is_warmed_only_for_models_that_it_may_use(house: House) -> None:
    house.services.keys.set_policy(TENANT, allowed_adapters=("other",))  # type: ignore[attr-defined]
    body = {"model": "sql", "prompt": "x", "tenant": "acme"}
    assert (await house.http.post("/api/v1/cache:warm", json=body)).status_code == 404


async def test_a_miss_after_a_restart_is_put_down_to_it(house: House) -> None:
    house.engine.miss_reason = "diverged"
    long = chat(messages=[{"role": "user", "content": "a long question " * 4}])
    for restarts in (0, 0, 1, 1):
        house.supervisor.restarts = restarts
        assert (await house.http.post(CHAT, json=long)).status_code == 200
    reasons = [miss["reason"] for miss in (await get(house, "cache/misses"))["items"]]
    assert reasons == ["diverged", "engine_restarted", "diverged", "diverged"]


async def test_an_adapters_numbers_are_its_own_however_busy_others_are(house: House) -> None:
    await house.http.post(CHAT, json=chat("sql", max_tokens=3))
    house.engine.failure = EngineFailure("adapter_unavailable", "its file vanished")
    assert (await house.http.post(CHAT, json=chat())).status_code == 503
    insight = house.services.insight
    request = house.engine.requests[-1]
    for i in range(2100):
        facts = PromptFacts(f"r{i}", time.time(), None, "base", None, 0, None, CHAT, False, 9)
        for watch in insight.follow_prompt(facts, request, msgspec.Struct(), house.services.groups.default):
            watch.ended("ok", None)
    assert all(row["adapter"] is None for row in (await get(house, "requests?limit=1000"))["items"])
    answer = await get(house, "activity")
    assert (answer["days"], answer["speed_seconds"]) == (7, 10)
    today = datetime.now(UTC).date()
    assert answer["since"] == (today - timedelta(days=6)).isoformat()
    base, sql = answer["items"]
    assert (base["adapter"], base["timed_answers"], sql["adapter"]) == (None, 100, "sql")
    assert (sql["requests"], sql["timed_answers"], sql["last_day"]) == (2, 1, today.isoformat())
    assert (sql["by_day"], sql["ended_requests"], sql["error_share"]) == ([0, 0, 0, 0, 0, 0, 2], 2, 0.5)
    assert 0 < sql["p95_seconds"] < 60
    assert sql["last_used_at"] == pytest.approx(time.time(), abs=60)


async def test_slots_and_what_would_fit(house: House) -> None:
    (replica,) = (await get(house, "slots"))["replicas"]
    assert (replica["slots"], replica["rows"], replica["bytes"]) == (4, 64, 100)
    assert [(r["slot"], r["versions"], r["idle_seconds"]) for r in replica["residents"]] == [(0, ["sql@3"], 2.5)]
    assert [(r["first_row"], r["rank"]) for r in replica["residents"]] == [(16, 8)]
    assert [(e["event"], e["versions"], e["seconds"]) for e in replica["timeline"]] == [("load", ["sql@3"], 0.75)]
    assert [(f["rank"], f["fits"], f["versions"]) for f in replica["forecasts"]] == [
        (8, True, []),
        (16, True, [["sql@3"]]),
        (64, False, []),
    ]
    question = {"ranks": [16, 16], "context_tokens": 100, "sequences": 9}
    fits = (await house.http.post("/api/v1/capacity", json=question)).json()
    assert (fits["adapter_bytes"], fits["rows_needed"], fits["blocks_needed"]) == (32 * 24 * 4, 32, 63)
    assert (fits["fits_adapters"], fits["fits_context"]) == (True, True)
    question = {"ranks": [64, 8], "context_tokens": 100, "sequences": 10}
    too_much = (await house.http.post("/api/v1/capacity", json=question)).json()
    assert (too_much["fits_adapters"], too_much["fits_context"]) == (False, False)
    assert "--max-loras" in too_much["advice"]
    assert "--kv-cache-memory" in too_much["advice"]


async def test_settings_hide_secrets(make_house: Any) -> None:
    house: House = make_house({"api_key": ("mf-secret",), "max_loras": 5})
    house.services.setting_sources = {"max_loras": "env"}
    async with house.http:
        page = await get(house, "settings")
    rows = {row["name"]: row for row in page["items"]}
    assert (rows["max_loras"]["value"], rows["max_loras"]["source"]) == ("5", "env")
    assert "mf-secret" not in json.dumps(page)
    assert rows["port"]["source"] == "default"
    chosen = house.services.engine.ready
    assert (rows["max_num_seqs"]["value"], rows["max_num_seqs"]["source"]) == (str(chosen.max_num_seqs), "device")
    assert (rows["gpu_memory_utilization"]["value"], rows["gpu_memory_utilization"]["source"]) == ("", "default")
    await house.services.grammars.close()


async def test_the_doctor_looks_at_the_machine(house: House) -> None:
    rows = {row["check"]: row for row in (await get(house, "doctor"))["items"]}
    assert rows["python"]["ok"]
    assert str(house.services.settings.data_dir.parent) in rows["disk"]["detail"]
    assert "torch" in rows["packages"]["detail"]
    assert rows["engine sizes"]["detail"] == "8 sequences and 2048 tokens a step"


async def test_without_an_engine_it_says_so(house: House) -> None:
    house.engine.ready = None
    for path in ("cache", "slots"):
        answer = await house.http.get(f"/api/v1/{path}")
        assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
