"""What guides to vLLM show beyond launch lines, with our name and a small model: clients, curl, metrics."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import openai
import pytest
import torch

from .conftest import ROOT, Server, serving

NAME = "small-llama"
QUESTION = [{"role": "system", "content": "You are brief."}, {"role": "user", "content": "Что такое квант? 量子?"}]


@pytest.fixture(scope="module")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As guides start theirs: no key is asked for."""
    line = f"{ROOT / 'examples/demo/base'} --served-model-name {NAME} --no-auth --num-threads 1 --max-num-seqs 16"
    with serving(tmp_path_factory.mktemp("guides"), *line.split()) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("key", ["EMPTY", "dummy"])
def test_openais_client_with_a_made_up_key(keyless: Server, key: str) -> None:
    client = openai.OpenAI(base_url=f"{keyless.url}/v1", api_key=key, max_retries=0)
    completion = client.completions.create(model=NAME, prompt="Rome is a", max_tokens=10, temperature=0.8, top_p=0.95)
    assert completion.choices[0].text
    asked = {"model": NAME, "messages": QUESTION, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    chunks = client.chat.completions.create(**asked, stream=True)
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert len(pieces) > 1
    assert "".join(pieces) == whole


@pytest.mark.slow
def test_a_chat_without_any_parameter(keyless: Server) -> None:
    answer = keyless.openai().chat.completions.create(model=NAME, messages=[{"role": "user", "content": "Hello!"}])
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")


@pytest.mark.slow
@pytest.mark.parametrize(
    "heads",
    [("Content-Type: application/json",), (), ("Content-Type:",), ("Content-Type: text/plain",)],
    ids=["json", "what curl sends by itself", "none", "text"],
)
def test_curl_whatever_it_says_about_the_body(keyless: Server, heads: tuple[str, ...]) -> None:
    body = {"model": NAME, "prompt": "怎样预防感冒", "temperature": 0, "max_tokens": 12}
    answer = json.loads(_curl(keyless, body, *heads))
    pieces = list(_streamed(_curl(keyless, body | {"stream": True}, *heads)))
    assert len(pieces) > 1
    assert "".join(pieces) == answer["choices"][0]["text"] != ""


def _curl(server: Server, body: dict[str, object], *heads: str) -> str:
    command = ["curl", "-sSN", f"{server.url}/v1/completions", "-d", json.dumps(body)]
    for head in ("Authorization: Bearer a-guides-key", *heads):
        command += ["-H", head]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def _streamed(events: str) -> Iterator[str]:
    """As the first OpenAI client read them: lines that begin with `data: `, up to [DONE]."""
    lines = [line.removeprefix("data: ") for line in events.splitlines() if line]
    assert lines.pop() == "[DONE]"
    for line in lines:
        yield json.loads(line)["choices"][0]["text"]


@pytest.mark.slow
def test_a_hundred_prompts_at_once_are_all_answered_and_counted(keyless: Server) -> None:
    """By the names that dashboards have; without a GPU, no metric speaks of one's utilisation."""
    counters = ("vllm:e2e_request_latency_seconds_count", "vllm:generation_tokens_total")
    before = [keyless.metric(name) for name in counters]
    prompts = [f"Write a story about {place}, number {i}" for i in range(20) for place in "abcde"]
    answer = keyless.openai().completions.create(model=NAME, prompt=prompts, max_tokens=6, temperature=0.8, top_p=0.95)
    assert [choice.index for choice in answer.choices] == list(range(100))
    assert answer.usage is not None
    requests, tokens = (keyless.metric(name) - old for name, old in zip(counters, before, strict=True))
    assert tokens == answer.usage.completion_tokens
    assert 100 <= tokens <= 600
    assert requests in (1, 100)
    assert keyless.metric("vllm:e2e_request_latency_seconds_sum") > 0
    assert keyless.metric("vllm:num_requests_waiting") == 0
    assert keyless.metric("vllm:num_requests_running") == 0
    if not torch.cuda.is_available():
        with keyless.http() as http:
            assert "gpu_utilization" not in http.get("/metrics").text
