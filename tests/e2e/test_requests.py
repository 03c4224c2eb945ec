"""What applications do: the official client against the demo, every adapter in one batch, the cache, and bad input."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.deploy.metric_names import names_in

DEMO = Path(__file__).parents[2] / "examples" / "demo"
BASE = "multiflora-demo"
ADAPTERS = [entry["name"] for entry in json.loads((DEMO / "adapters.json").read_text(encoding="utf-8"))]
PROMPTS = {entry["name"]: entry["demo_prompt"] for entry in json.loads((DEMO / "adapters.json").read_text("utf-8"))}


@pytest.fixture(scope="module")
def client(demo: Any) -> Iterator[openai.OpenAI]:
    with demo.openai() as client:
        yield client


def ask(client: openai.OpenAI, model: str, prompt: str, **options: Any) -> str:
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=80, **options
    )
    return answer.choices[0].message.content or ""


def test_models_lists_the_base_first_and_every_adapter(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == BASE
    assert set(ADAPTERS) <= set(names)


def test_model_chooses_the_adapter(client: openai.OpenAI) -> None:
    for name, prompt in PROMPTS.items():
        answers = {model: ask(client, model, prompt) for model in (name, BASE)}
        assert answers[name] != answers[BASE]


def test_requests_of_different_adapters_in_one_batch_answer_as_alone(client: openai.OpenAI) -> None:
    work = [(model, prompt) for prompt in PROMPTS.values() for model in (BASE, *ADAPTERS)]
    alone = [ask(client, *item) for item in work]
    with ThreadPoolExecutor(len(work)) as pool:
        together = list(pool.map(lambda item: ask(client, *item), work))
    assert together == alone


def test_a_stream_says_what_the_answer_says(client: openai.OpenAI) -> None:
    name, prompt = next(iter(PROMPTS.items()))
    chunks = list(
        client.chat.completions.create(
            model=name,
            messages=[{"role": "user", "content": prompt}],
            temperature=0,
            max_tokens=80,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == ask(client, name, prompt)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


def test_a_repeated_context_comes_from_the_cache_and_only_for_the_same_adapter(
    client: openai.OpenAI, demo: Any
) -> None:
    context = "Note: " + " ".join(f"room {number} is on floor {number % 7}." for number in range(60))

    def cached(model: str) -> int:
        answer = client.chat.completions.create(
            model=model,
            messages=[{"role": "system", "content": context}, {"role": "user", "content": "Which floor?"}],
            temperature=0,
            max_tokens=4,
        )
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        return answer.usage.prompt_tokens_details.cached_tokens or 0

    assert cached(BASE) < 32
    assert cached(BASE) > 200
    assert cached(ADAPTERS[0]) == 0
    assert cached(ADAPTERS[0]) > 200

    def explained(question: str, model: str = BASE) -> dict[str, Any]:
        messages = [{"role": "system", "content": context}, {"role": "user", "content": question}]
        with demo.http() as http:
            answer = http.post("/api/v1/cache:explain", json={"model": model, "messages": messages})
        return dict(answer.raise_for_status().json())

    # The engine is asked for the very blocks that a request would find.
    same, other = explained("Which floor?"), explained("How many rooms are there on the fourth floor, and which?")
    assert (same["cause"], same["cached_tokens"]) == ("none", cached(BASE))
    assert (other["cause"], other["first_difference"]["message"]) == ("diverged", 1)
    assert 200 < other["cached_tokens"] <= other["first_difference"]["token"]
    assert explained("Which floor?", ADAPTERS[1])["cause"] == "other_adapter"


BAD_BODIES: list[tuple[str, dict[str, Any], int, str]] = [
    ("/v1/chat/completions", {"model": "no-such-model", "messages": [{"role": "user", "content": "x"}]}, 404, "model"),
    ("/v1/chat/completions", {"model": BASE, "messages": []}, 400, "messages"),
    ("/v1/chat/completions", {"model": BASE}, 400, "messages"),
    ("/v1/chat/completions", {"model": BASE, "messages": [{"role": "wizard", "content": "x"}]}, 400, "role"),
    ("/v1/chat/completions", {"model": BASE, "messages": [{"role": "user"}]}, 400, "content"),
    ("/v1/completions", {"model": BASE, "prompt": []}, 400, "prompt"),
    ("/v1/completions", {"model": BASE, "prompt": [10**9]}, 400, "prompt"),
    ("/v1/completions", {"model": BASE, "prompt": "x", "max_tokens": 10**9}, 400, "max_tokens"),
    ("/v1/completions", {"model": BASE, "prompt": "x", "temperature": -1}, 400, "temperature"),
    ("/v1/completions", {"model": BASE, "prompt": "x", "top_p": 0}, 400, "top_p"),
    ("/v1/completions", {"model": BASE, "prompt": "x", "n": 0}, 400, "n"),
    ("/v1/completions", {"model": BASE, "prompt": "x", "logit_bias": {"x": 1}}, 400, "logit_bias"),
    ("/v1/completions", {"model": BASE, "prompt": "x", "stop": 7}, 400, "stop"),
    ("/v1/completions", {"model": BASE, "prompt": "x" * 200_000}, 400, "context_length_exceeded"),
    ("/v1/completions", {"model": "", "prompt": "x"}, 400, "model"),
]


def test_bad_input_names_its_parameter_and_disturbs_no_stream(demo: Any, client: openai.OpenAI) -> None:
    name, prompt = next(iter(PROMPTS.items()))
    expected = ask(client, name, prompt)
    with ThreadPoolExecutor(4) as pool, demo.http() as http:
        streams = [pool.submit(ask, client, name, prompt) for _ in range(12)]
        for path, body, status, parameter in BAD_BODIES:
            answer = http.post(path, json=body)
            assert answer.status_code in ({status, 404} if body.get("model") == "" else {status}), (body, answer.text)
            error = answer.json()["error"]
            assert parameter in f"{error['param']} {error['message']} {error['code']}"
        for raw in (b"", b"{", b"[1]", b"null", b'{"a":' * 5000, b'{"model": "\xff"}'):
            answer = http.post("/v1/completions", content=raw, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400, (raw[:20], answer.text)
        assert {stream.result() for stream in streams} == {expected}


def test_keys_come_before_everything_else(demo: Any) -> None:
    for key in ("", "Bearer wrong", "Basic e2e"):
        answer = httpx.post(f"{demo.url}/v1/completions", content=b"{", headers={"Authorization": key})
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert httpx.get(f"{demo.url}/health/ready").status_code == 200


def test_leaving_a_stream_frees_its_place(demo: Any) -> None:
    body = {"model": BASE, "prompt": "once", "max_tokens": 1500, "ignore_eos": True, "stream": True}
    with demo.http() as http:
        before = demo.metric("vllm:num_requests_running")
        with http.stream("POST", "/v1/completions", json=body) as response:
            next(response.iter_lines())
        for _ in range(50):
            if demo.metric("vllm:num_requests_running") <= before:
                return
    pytest.fail("the request kept running")


def test_hostile_heads_are_refused(demo: Any) -> None:
    for headers in ({"X-Big": "x" * 70_000}, {f"X-{number}": "y" * 1000 for number in range(80)}):
        assert httpx.get(f"{demo.url}/health", headers=headers).status_code == 431
    assert httpx.get(f"{demo.url}/v1/models", headers={**demo.headers, "Host": "evil.example"}).status_code == 400


def test_bodies_over_the_limit_are_refused_before_they_are_read(demo: Any) -> None:
    answer = httpx.post(f"{demo.url}/v1/completions", content=b"x" * (9 << 20), headers=demo.headers)
    assert answer.status_code == 413


def test_a_running_server_tells_what_dashboard_and_alerts_ask_for(demo: Any, client: openai.OpenAI) -> None:
    """But for what needs a GPU, or copies behind the device."""
    ask(client, "sql", PROMPTS["sql"])
    with demo.http() as http:
        families = set(re.findall(r"^# TYPE (\S+)", http.get("/metrics").text, re.MULTILINE))
    files = ("grafana/dashboard.json", "prometheus/rules.yml")
    named = names_in("".join((DEMO.parents[1] / "deploy" / file).read_text(encoding="utf-8") for file in files))
    wanted = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in named}
    missing = wanted - families
    assert all(name.startswith(("multiflora_gpu_", "multiflora_kv_tier_")) for name in missing)
    assert len(wanted) > 40
