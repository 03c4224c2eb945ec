"""The same cases through the official client, sync and async: what its types make of the answers is what was said."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from typing import Any

import httpx
import openai
import pytest
from tests.e2e.conformance.answers import Answered, from_chunks, from_whole, read_events
from tests.e2e.conformance.cases import CALLS, CHAT, COMPLETIONS, CONTENT, STREAMS, Case, Plain, label, request

_KNOWN = {
    CHAT: set(inspect.signature(openai.resources.chat.Completions.create).parameters),
    COMPLETIONS: set(inspect.signature(openai.resources.Completions.create).parameters),
}


def arguments(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """What the client does not know goes into extra_body, as its users do."""
    known = {name: value for name, value in body.items() if name in _KNOWN[path]}
    return {**known, "extra_body": {name: value for name, value in body.items() if name not in _KNOWN[path]}}


def call(client: Any, path: str, body: dict[str, Any]) -> Any:
    resource = client.chat.completions if path == CHAT else client.completions
    return resource.create(**arguments(path, body))


@pytest.mark.parametrize(("path", "case"), CALLS, ids=label)
def test_whole(client: openai.OpenAI, plains: dict[str, Plain], path: str, case: Case) -> None:
    answer = call(client, path, request(path, case, plains[path]))
    case.check(from_whole(answer.model_dump()), plains[path])


@pytest.mark.parametrize(("path", "case"), STREAMS, ids=label)
def test_streamed(client: openai.OpenAI, plains: dict[str, Plain], path: str, case: Case) -> None:
    body = {**request(path, case, plains[path]), "stream": True, "stream_options": {"include_usage": True}}
    answered = from_chunks(chunk.model_dump() for chunk in call(client, path, body))
    case.check(answered, plains[path])
    assert answered.usage is not None


async def test_all_cases_at_once(demo: Any, plains: dict[str, Plain]) -> None:
    """Through the asynchronous client, in one batch with each other."""

    async def one(path: str, case: Case, client: openai.AsyncOpenAI) -> tuple[Case, str, Answered]:
        body = {**request(path, case, plains[path]), "stream": True}
        chunks = [chunk.model_dump() async for chunk in await call(client, path, body)]
        return case, path, from_chunks(chunks)

    async with openai.AsyncOpenAI(base_url=f"{demo.url}/v1", api_key=demo.key, max_retries=0, timeout=120) as client:
        for case, path, answered in await asyncio.gather(*(one(path, case, client) for path, case in STREAMS)):
            case.check(answered, plains[path])


def test_the_streaming_helper(client: openai.OpenAI, plains: dict[str, Plain]) -> None:
    """To the answer's own end: a cut one is an error to the helper, here as with OpenAI."""
    with client.chat.completions.stream(model="sql", temperature=0, max_tokens=90, **CONTENT[CHAT]) as stream:
        texts = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert "".join(texts) == final.choices[0].message.content
    assert "".join(texts).startswith(plains[CHAT].text)


def test_responses(client: openai.OpenAI, plains: dict[str, Plain]) -> None:
    body: dict[str, Any] = {
        "model": "sql",
        "input": CONTENT[CHAT]["messages"],
        "temperature": 0,
        "max_output_tokens": 12,
    }
    assert client.responses.create(**body).output_text == plains[CHAT].text
    with client.responses.stream(**body) as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(texts) == plains[CHAT].text


def test_embeddings(client: openai.OpenAI) -> None:
    """The client asks for base64 by itself, and for floats when told to."""
    both = [
        client.embeddings.create(model="sql", input=["a", "bc"], **options).data
        for options in ({}, {"encoding_format": "float"})
    ]
    for coded, plain in zip(*both, strict=True):
        assert coded.embedding == pytest.approx(plain.embedding, abs=1e-6)
    assert both[0][0].embedding != both[0][1].embedding


def test_models(client: openai.OpenAI) -> None:
    models = client.models.list().data
    base, *adapters = models
    assert (base.id, base.parent, base.object) == ("multiflora-demo", None, "model")
    assert {adapter.parent for adapter in adapters} == {base.id}
    assert all(model.max_model_len > 0 and model.created > 0 for model in models)
    for name in (base.id, "sql", "sql@default", "sql@1"):
        assert client.models.retrieve(name).id == name


def test_batches(client: openai.OpenAI, plains: dict[str, Plain]) -> None:
    body = {"model": "sql", "temperature": 0, "max_tokens": 12, **CONTENT[CHAT]}
    rows = [{"custom_id": str(i), "method": "POST", "url": CHAT, "body": body} for i in range(5)]
    content = "\n".join(json.dumps(row) for row in rows).encode()
    file = client.files.create(file=("work.jsonl", content), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    while batch.status not in ("completed", "failed"):
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    assert batch.request_counts.completed == 5
    lines = client.files.content(batch.output_file_id).text.splitlines()
    texts = {json.loads(text)["response"]["body"]["choices"][0]["message"]["content"] for text in lines}
    assert texts == {plains[CHAT].text}
    client.files.delete(file.id)


REFUSALS: list[tuple[dict[str, Any], str, str]] = [
    ({"temperature": -1}, "temperature", "invalid_value"),
    ({"top_p": 2}, "top_p", "invalid_value"),
    ({"n": 0}, "n", "invalid_value"),
    ({"max_tokens": -1}, "max_tokens", "invalid_value"),
    ({"max_tokens": 10**6}, "max_tokens", "context_length_exceeded"),
    ({"seed": 2**80}, "seed", "invalid_value"),
    ({"logit_bias": {"a": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"5": 500}}, "logit_bias", "invalid_value"),
    ({"presence_penalty": 9}, "presence_penalty", "invalid_value"),
    ({"frequency_penalty": 9}, "frequency_penalty", "invalid_value"),
    ({"stop": [""]}, "stop", "invalid_value"),
    ({"min_p": 2}, "min_p", "invalid_value"),
    ({"top_k": -5}, "top_k", "invalid_value"),
    ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
    ({"min_tokens": 99}, "min_tokens", "invalid_value"),
    ({"allowed_token_ids": [10**9]}, "allowed_token_ids", "invalid_value"),
    ({"bad_words": [""]}, "bad_words", "invalid_value"),
    ({"prompt_logprobs": 99}, "prompt_logprobs", "invalid_value"),
    ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "invalid_value"),
    ({"chat_template": "{{ x }}"}, "chat_template", "unsupported_parameter"),
    ({"model": "multiflora-demo", "adapters": [{"name": "sql", "weight": 0}]}, "adapters[0].weight", "invalid_value"),
    ({"use_beam_search": True, "logit_bias": {"5": 1}}, "logit_bias", "unsupported_parameter"),
    ({"use_beam_search": True, "n": 50}, "n", "invalid_value"),
]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize(("fields", "param", "code"), REFUSALS)
def test_refusals(client: openai.OpenAI, path: str, fields: dict[str, Any], param: str, code: str) -> None:
    body = {"model": "sql", "temperature": 0, "max_tokens": 12, **CONTENT[path], **fields}
    with pytest.raises(openai.BadRequestError) as refused:
        call(client, path, body)
    assert (refused.value.param, refused.value.code) == (param, code)
    assert refused.value.type == "invalid_request_error"


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_unknown_models_and_keys(client: openai.OpenAI, path: str) -> None:
    body = {"max_tokens": 1, **CONTENT[path]}
    for name in ("nobody", "sql@nobody", "sql@99", "SQL"):
        with pytest.raises(openai.NotFoundError) as missing:
            call(client, path, {**body, "model": name})
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.AuthenticationError) as refused:
        call(client.with_options(api_key="wrong"), path, {**body, "model": "sql"})
    assert refused.value.code == "invalid_api_key"


def test_suffix_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="sql", prompt="a", suffix="b")
    assert (refused.value.param, refused.value.code) == ("suffix", "unsupported_parameter")


def test_leaving_a_stream_aborts(demo: Any, client: openai.OpenAI, http: httpx.Client) -> None:
    body = {"model": "sql", "max_tokens": 400, "extra_body": {"ignore_eos": True}, "stream": True, **CONTENT[CHAT]}
    before = demo.metric("multiflora_requests_total")
    with client.chat.completions.create(**body) as stream:
        next(iter(stream))
    for _ in range(200):
        if demo.metric("vllm:num_requests_running") == 0:
            break
    assert demo.metric("vllm:num_requests_running") == 0
    assert demo.metric("multiflora_requests_total") > before
    assert read_events(http.post(CHAT, json={**{k: v for k, v in body.items() if k != "extra_body"}, "max_tokens": 1}))
