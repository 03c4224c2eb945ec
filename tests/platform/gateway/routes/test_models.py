"""Models, tokenizer calls, vLLM's adapter calls, metrics, and the policy of every route."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.platform.gateway.house import MAX_LEN, TEMPLATE, TENANT, House

from multiflora_engine.protocol.histograms import Distribution
from multiflora_engine.protocol.messages import EngineStats
from multiflora_platform.auth.dependencies import routes_without_policy
from multiflora_platform.registry.errors import NoRoom

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


async def test_the_base_comes_first(house: House) -> None:
    base, sql, canary = (await house.http.get("/v1/models")).json()["data"]
    assert (base["id"], base["root"], base["parent"], base["max_model_len"]) == ("base", "org/base", None, MAX_LEN)
    assert (sql["id"], sql["root"], sql["parent"], sql["created"]) == ("sql", "sql@3", "base", 1_700_000_000)
    assert (canary["id"], canary["root"], canary["parent"]) == ("sql@canary", "sql@2", "base")
    assert {card["owned_by"] for card in (base, sql, canary)} == {"multiflora"}


async def test_one_model(house: House) -> None:
    for name, root in (("base", "org/base"), ("sql", "sql@3"), ("sql@3", "sql@3")):
        card = (await house.http.get(f"/v1/models/{name}")).json()
        assert (card["id"], card["root"]) == (name, root)
    missing = await house.http.get("/v1/models/org/nobody")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


async def test_tokenize_and_back(house: House) -> None:
    there = (await house.post("/tokenize", {"prompt": "<|user|>é", "return_token_strs": True})).json()
    assert (there["count"], there["max_model_len"], there["token_strs"]) == (3, MAX_LEN, ["<|user|>", "Ã", "©"])
    back = await house.post("/detokenize", {"tokens": there["tokens"], "model": "sql"})
    assert back.json() == {"prompt": "<|user|>é"}
    chat = await house.post("/tokenize", {"model": "base", "messages": [{"role": "user", "content": "x"}]})
    assert chat.json()["count"] == 4


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/tokenize", {}, 400),
        ("/tokenize", {"prompt": "a", "messages": []}, 400),
        ("/tokenize", {"messages": []}, 400),
        ("/tokenize", {"prompt": "a", "model": "nobody"}, 404),
        ("/tokenize", {"messages": [{"role": "user", "content": "x"}], "chat_template": "x"}, 400),
        ("/detokenize", {"tokens": [10**9]}, 400),
        ("/detokenize", {"tokens": "x"}, 400),
        ("/detokenize", {"tokens": [], "model": ""}, 400),
    ],
)
async def test_tokenizer_calls_refuse(house: House, path: str, body: dict[str, Any], status: int) -> None:
    assert (await house.post(path, body)).status_code == status


async def test_tokenizer_info(house: House) -> None:
    info = (await house.http.get("/tokenizer_info")).json()
    assert info == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "chat_template": TEMPLATE,
        "vocab_size": house.services.model.tokenizer.vocab_size,
        "max_model_len": MAX_LEN,
    }


async def test_vllms_adapter_calls(house: House) -> None:
    added = await house.post(LOAD, {"lora_name": "new", "lora_path": "/ok"})
    assert (added.status_code, added.text) == (200, "Success: LoRA adapter 'new' added successfully.")
    assert added.headers["content-type"].startswith("text/plain")
    again = await house.post(LOAD, {"lora_name": "new", "lora_path": "/ok"})
    assert (again.status_code, again.json()["error"]["type"]) == (400, "InvalidUserInput")
    inplace = await house.post(LOAD, {"lora_name": "new", "lora_path": "/ok", "load_inplace": True})
    assert inplace.status_code == 200
    removed = await house.post(UNLOAD, {"lora_name": "new"})
    assert (removed.status_code, removed.text) == (200, "Success: LoRA adapter 'new' removed successfully.")
    assert (await house.post("/v1/completions", {"model": "new", "prompt": "a"})).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "message"),
    [
        (LOAD, {"lora_name": "x"}, 400, "InvalidUserInput", "lora_path"),
        (LOAD, {"lora_name": "", "lora_path": "/ok"}, 400, "InvalidUserInput", "lora_name"),
        (LOAD, {"lora_name": "base", "lora_path": "/ok"}, 400, "InvalidUserInput", "base model"),
        (LOAD, {"lora_name": "x", "lora_path": "/missing"}, 404, "NotFoundError", "/missing"),
        (LOAD, {"lora_name": "x", "lora_path": "/broken"}, 400, "InvalidUserInput", "rank 99 is too large"),
        (UNLOAD, {}, 400, "InvalidUserInput", "lora_name"),
        (UNLOAD, {"lora_name": "nobody"}, 404, "NotFoundError", "nobody"),
    ],
)
async def test_vllms_refusals(
    house: House, path: str, body: dict[str, Any], status: int, kind: str, message: str
) -> None:
    response = await house.post(path, body)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (status, kind)
    assert message in error["message"]


async def test_tenants_load_nothing(house: House) -> None:
    for path in (LOAD, UNLOAD):
        response = await house.post(path, {"lora_name": "sql"}, authorization=f"Bearer {TENANT}")
        assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden")
    assert "sql" in house.registry.digests


async def test_metrics(house: House) -> None:
    house.engine.stats = EngineStats(
        running=3,
        waiting=5,
        deferred=2,
        num_blocks=64,
        free_blocks=48,
        cache_queries=10,
        cache_hits=4,
        drafts=3,
        draft_tokens=9,
        accepted_tokens=7,
        step_tokens=Distribution((1, 8), (4, 2, 1), 40),
    )
    await house.post("/v1/completions", {"model": "sql", "prompt": "Say", "max_tokens": 4})
    await house.post("/v1/completions", {"model": "nobody", "prompt": "Say"})
    house.registry.digests = {"held": "d" * 64, "never-asked-for": "c" * 64}
    response = await house.http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    text = response.text
    for line in (
        'vllm:num_requests_running{model_name="base"} 3.0',
        'vllm:num_requests_waiting{model_name="base"} 5.0',
        'vllm:num_requests_waiting_by_reason{model_name="base",reason="capacity"} 3.0',
        'vllm:num_requests_waiting_by_reason{model_name="base",reason="deferred"} 2.0',
        'vllm:iteration_tokens_total_bucket{le="1.0",model_name="base"} 4.0',
        'vllm:iteration_tokens_total_bucket{le="8.0",model_name="base"} 6.0',
        'vllm:iteration_tokens_total_bucket{le="+Inf",model_name="base"} 7.0',
        'vllm:iteration_tokens_total_sum{model_name="base"} 40.0',
        'vllm:iteration_tokens_total_count{model_name="base"} 7.0',
        'vllm:request_num_preemptions_count{model_name="base"} 0.0',
        'vllm:kv_cache_usage_perc{model_name="base"} 0.25',
        'vllm:prefix_cache_queries_total{model_name="base"} 10.0',
        'vllm:prefix_cache_hits_total{model_name="base"} 4.0',
        'vllm:spec_decode_num_drafts_total{model_name="base"} 3.0',
        'vllm:spec_decode_num_draft_tokens_total{model_name="base"} 9.0',
        'vllm:spec_decode_num_accepted_tokens_total{model_name="base"} 7.0',
        'vllm:prompt_tokens_total{model_name="base"} 3.0',
        'vllm:prompt_tokens_cached_total{model_name="base"} 1.0',
        'multiflora_prompt_tokens_cache_written_total{model_name="base"} 1.0',
        'multiflora_prompt_tokens_uncached_total{model_name="base"} 1.0',
        'vllm:prompt_tokens_by_source_total{model_name="base",source="local_compute"} 2.0',
        'vllm:prompt_tokens_by_source_total{model_name="base",source="local_cache_hit"} 1.0',
        'vllm:generation_tokens_total{model_name="base"} 4.0',
        'vllm:request_success_total{finished_reason="length",model_name="base"} 1.0',
        'vllm:time_to_first_token_seconds_count{model_name="base"} 1.0',
        'vllm:request_queue_time_seconds_sum{model_name="base"} 0.25',
        'vllm:request_queue_time_seconds_count{model_name="base"} 1.0',
        'vllm:inter_token_latency_seconds_count{model_name="base"} 3.0',
        'vllm:time_per_output_token_seconds_count{model_name="base"} 3.0',
        'vllm:e2e_request_latency_seconds_count{model_name="base"} 1.0',
        'vllm:request_prefill_time_seconds_count{model_name="base"} 1.0',
        'vllm:request_decode_time_seconds_count{model_name="base"} 1.0',
        'vllm:request_inference_time_seconds_count{model_name="base"} 1.0',
        'vllm:request_time_per_output_token_seconds_count{model_name="base"} 1.0',
        'vllm:request_params_max_tokens_sum{model_name="base"} 4.0',
        'vllm:request_params_n_sum{model_name="base"} 1.0',
        'vllm:request_max_num_generation_tokens_sum{model_name="base"} 4.0',
        'vllm:request_prefill_kv_computed_tokens_sum{model_name="base"} 2.0',
        'multiflora_adapter_tokens_total{adapter="sql",kind="cached",model_name="base"} 1.0',
        'multiflora_adapter_tokens_total{adapter="sql",kind="generated",model_name="base"} 4.0',
        'vllm:cache_config_info{block_size="16",model_name="base",num_gpu_blocks="64"} 1.0',
        'multiflora_requests_total{adapter="sql",model_name="base",outcome="ok"} 1.0',
        'multiflora_http_requests_total{method="POST",route="/v1/completions",status="404"} 1.0',
        'multiflora_engine_state{model_name="base",state="ready"} 1.0',
        'multiflora_engine_restarts_total{model_name="base"} 2.0',
        'multiflora_resident_memory_bytes{model_name="base",process="gateway"}',
        'multiflora_resident_memory_bytes{model_name="base",process="engine"}',
        'multiflora_adapters{model_name="base",residency="slot"} 1.0',
        'multiflora_adapters{model_name="base",residency="disk"} 1.0',
    ):
        assert line in text, line
    assert "vllm:lora_requests_info{" in text
    assert "process_resident_memory_bytes " in text
    families = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(families) == len(set(families))
    assert (await house.http.get("/metrics", headers={"authorization": ""})).status_code == 401


async def test_tenants_are_told_to_admins_alone(house: House) -> None:
    body = {"model": "sql", "prompt": "Say", "max_tokens": 4}
    tenants = {"authorization": f"Bearer {TENANT}"}
    assert (await house.post("/v1/completions", body)).status_code == 200
    assert (await house.post("/v1/completions", body, **tenants)).status_code == 200
    told = (await house.http.get("/metrics")).text
    for line in (
        'multiflora_tenant_requests_total{model_name="base",outcome="ok",tenant="(admin)"} 1.0',
        'multiflora_tenant_requests_total{model_name="base",outcome="ok",tenant="acme"} 1.0',
        'multiflora_tenant_tokens_total{kind="generated",model_name="base",tenant="acme"} 4.0',
    ):
        assert line in told, line
    to_a_tenant = await house.http.get("/metrics", headers=tenants)
    assert to_a_tenant.status_code == 200
    assert "multiflora_requests_total" in to_a_tenant.text
    assert "multiflora_tenant_" not in to_a_tenant.text


async def test_labels_stay_bounded(house: House) -> None:
    metrics = house.services.metrics.of("base")
    for number in range(400):
        metrics.ended(f"adapter{number}", "ok", {"generated": 1})
        metrics.tenants.ended(f"tenant{number}", "ok", {"generated": 1})
        await house.http.get(f"/nowhere/{number}")
        await house.http.request(f"M{number}", "/v1/models")
    text = (await house.http.get("/metrics")).text
    assert text.count("multiflora_requests_total{") <= 257
    assert text.count("multiflora_tenant_requests_total{") <= 257
    assert 'tenant="other"' in text
    assert 'adapter="other"' in text
    assert text.count("multiflora_http_requests_total{") < 5


def test_every_route_has_a_policy(make_house: Any) -> None:
    assert routes_without_policy(make_house().app) == []


async def test_the_bodies_are_documented(house: House) -> None:
    document = (await house.http.get("/openapi.json")).json()
    schema = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    name = schema["$ref"].rpartition("/")[2]
    assert {"messages", "model", "top_k"} <= set(document["components"]["schemas"][name]["properties"])


@pytest.mark.parametrize("pinned", [True, False, None])
async def test_an_adapter_is_loaded_and_pinned(house: House, pinned: bool | None) -> None:
    response = await house.post(LOAD, {"lora_name": "poet", "lora_path": "/poet", "pinned": pinned})
    assert response.status_code == 200, response.text
    assert house.registry.commands == ([("pin", "poet")] if pinned else [])


async def test_an_adapter_that_no_room_is_left_to_pin_is_said_to_be_added(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(action: str, name: str, version: int | None, actor: str) -> None:
        raise NoRoom("Pinning it would leave too little room.")

    monkeypatch.setattr(house.registry, "_command", refuse)
    response = await house.post(LOAD, {"lora_name": "poet", "lora_path": "/poet", "pinned": True})
    message = response.json()["error"]["message"]
    assert response.status_code == 400
    assert message.startswith("The lora adapter 'poet' was added, but it is not pinned. Pinning it would")


async def test_every_name_of_the_base_answers_and_the_first_is_shown(house: House) -> None:
    services = house.services
    services.groups.default.model = replace(services.model, other_names=("org/base", "second"), path="/models/base")
    listed = (await house.http.get("/v1/models")).json()["data"]
    assert [card["id"] for card in listed if card["parent"] is None] == ["base", "org/base", "second"]
    for name in ("base", "org/base", "second", "/models/base"):
        answer = await house.post("/v1/completions", {"model": name, "prompt": "a"})
        assert (answer.status_code, answer.json()["model"]) == (200, name)
        assert (await house.post("/tokenize", {"model": name, "prompt": "a"})).status_code == 200
        card = (await house.http.get(f"/v1/models/{name}")).json()
        assert (card["id"], card["root"]) == (name, "org/base")
    assert (await house.post(LOAD, {"lora_name": "second", "lora_path": "/x"})).status_code == 400
    assert (await house.post("/v1/completions", {"model": "third", "prompt": "a"})).status_code == 404


async def test_adapters_that_are_off_are_refused_and_the_error_says_so(make_house: Callable[..., House]) -> None:
    house = make_house({"enable_lora": False})
    async with house.http:
        assert [card["id"] for card in (await house.http.get("/v1/models")).json()["data"]] == ["base"]
        assert (await house.post("/v1/completions", {"model": "base", "prompt": "a"})).status_code == 200
        mix = {"model": "base", "prompt": "a", "adapters": [{"name": "sql", "weight": 0.5}]}
        for refused in (
            await house.post("/v1/completions", {"model": "sql", "prompt": "a"}),
            await house.post("/v1/completions", mix),
            await house.http.get("/v1/models/sql"),
            await house.post(LOAD, {"lora_name": "new", "lora_path": "/x"}),
        ):
            assert refused.status_code in (400, 404)
            assert "--no-enable-lora" in refused.json()["error"]["message"]
    await house.services.grammars.close()


async def test_version_load_and_ping(house: House) -> None:
    assert (await house.http.get("/version")).json() == {"version": house.app.version}
    assert (await house.http.get("/load")).json() == {"server_load": 0}
    house.engine.hangs = True
    waiting = asyncio.create_task(house.post("/v1/completions", {"model": "base", "prompt": "a"}))
    await house.until(lambda: house.engine.requests)
    assert (await house.http.get("/load")).json() == {"server_load": 1}
    waiting.cancel()
    for method in ("GET", "POST"):
        assert (await house.http.request(method, "/ping", headers={"Authorization": ""})).status_code == 200
    for path in ("/version", "/load"):
        assert (await house.http.get(path, headers={"Authorization": ""})).status_code == 401
