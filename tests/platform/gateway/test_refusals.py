"""Bad input: a 4xx in OpenAI's envelope that names the parameter, never a 500, and nothing reaches the engine."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.platform.gateway.house import ADMIN, MAX_LEN, OTHER, TENANT, House

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"max_tokens": MAX_LEN}, "max_tokens", "context_length_exceeded"),
    ({"max_tokens": 10**30}, "max_tokens", "context_length_exceeded"),
    ({"max_tokens": -1}, "max_tokens", "invalid_value"),
    ({"max_tokens": True}, "max_tokens", "invalid_value"),
    ({"max_tokens": "5"}, "max_tokens", "invalid_value"),
    ({"temperature": -0.1}, "temperature", "invalid_value"),
    ({"temperature": "hot"}, "temperature", "invalid_value"),
    ({"top_p": 0}, "top_p", "invalid_value"),
    ({"top_p": 1.1}, "top_p", "invalid_value"),
    ({"top_k": -2}, "top_k", "invalid_value"),
    ({"min_p": 2}, "min_p", "invalid_value"),
    ({"n": 0}, "n", "invalid_value"),
    ({"n": 100_000}, "n", "invalid_value"),
    ({"n": 3, "best_of": 2}, "best_of", "invalid_value"),
    ({"best_of": 2, "stream": True}, "best_of", "invalid_value"),
    ({"presence_penalty": 3}, "presence_penalty", "invalid_value"),
    ({"frequency_penalty": -3}, "frequency_penalty", "invalid_value"),
    ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
    ({"seed": 2**70}, "seed", "invalid_value"),
    ({"seed": 1.5}, "seed", "invalid_value"),
    ({"stop": ""}, "stop", "invalid_value"),
    ({"stop": ["a", 5]}, "stop[1]", "invalid_value"),
    ({"stop": ["a"] * 1000}, "stop", "invalid_value"),
    ({"stop": ["a" * 65_000, "b" * 537]}, "stop", "invalid_value"),
    ({"stop_token_ids": [10**9]}, "stop_token_ids", "invalid_value"),
    ({"stop_token_ids": [97] * 1025}, "stop_token_ids", "invalid_value"),
    ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"5": None}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"99999": 1}}, "logit_bias", "invalid_value"),
    ({"logit_bias": {"5": 1000}}, "logit_bias", "invalid_value"),
    ({"bad_words": [" "]}, "bad_words", "invalid_value"),
    ({"bad_words": ["a" * 16_000, "b" * 385]}, "bad_words", "invalid_value"),
    ({"allowed_token_ids": []}, "allowed_token_ids", "invalid_value"),
    ({"min_tokens": 20, "max_tokens": 5}, "min_tokens", "invalid_value"),
    ({"prompt_logprobs": 100}, "prompt_logprobs", "invalid_value"),
    ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs", "invalid_value"),
    ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "invalid_value"),
    ({"truncate_prompt_tokens": 10**6}, "truncate_prompt_tokens", "invalid_value"),
    ({"priority": 2**40}, "priority", "invalid_value"),
    ({"stream": "yes"}, "stream", "invalid_value"),
    ({"stream_options": []}, "stream_options", "invalid_value"),
    ({"model": ""}, "model", "invalid_value"),
    ({"model": None}, "model", "invalid_value"),
    ({"chat_template": "{{ x }}"}, "chat_template", "unsupported_parameter"),
    ({"use_beam_search": True, "temperature": 0.5}, "temperature", "unsupported_parameter"),
    ({"use_beam_search": True, "guided_regex": "a"}, "guided_regex", "unsupported_parameter"),
    ({"use_beam_search": True, "logit_bias": {"1": 2}}, "logit_bias", "unsupported_parameter"),
    ({"use_beam_search": True, "n": 21}, "n", "invalid_value"),
    ({"use_beam_search": True, "length_penalty": 11}, "length_penalty", "invalid_value"),
    ({"use_beam_search": True, "early_stopping": "soon"}, "early_stopping", "invalid_value"),
    ({"adapters": [{"name": "sql", "weight": 0}], "model": "base"}, "adapters[0].weight", "invalid_value"),
    ({"adapters": [{"name": "sql"}], "model": "sql"}, "model", "invalid_value"),
    ({"response_format": {"type": "yaml"}}, "response_format.type", "invalid_value"),
    ({"response_format": {"type": "json_schema"}}, "response_format", "invalid_value"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": []}}},
        "response_format.json_schema.schema",
        "invalid_value",
    ),
    ({"response_format": {"type": "structural_tag"}}, "response_format", "invalid_value"),
    ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex", "invalid_value"),
    ({"guided_json": {}, "guided_regex": "a"}, "guided_regex", "invalid_value"),
    ({"guided_json": "{"}, "guided_json", "invalid_value"),
    ({"guided_choice": []}, "guided_choice", "invalid_value"),
    ({"structured_outputs": {}}, "structured_outputs", "invalid_value"),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs", "invalid_value"),
    ({"structured_outputs": {"choice": "b"}}, "structured_outputs.choice", "invalid_value"),
]
COMPLETION_FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": []}, "prompt", "invalid_value"),
    ({"prompt": [[]]}, "prompt", "invalid_value"),
    ({"prompt": ""}, "prompt", "invalid_value"),
    ({"prompt": ["a", ""]}, "prompt", "invalid_value"),
    ({"prompt": None}, "prompt", "invalid_value"),
    ({"prompt": [1, "a"]}, "prompt", "invalid_value"),
    ({"prompt": [True]}, "prompt[0]", "invalid_value"),
    ({"prompt": [-1]}, "prompt", "invalid_value"),
    ({"prompt": [10**30]}, "prompt", "invalid_value"),
    ({"prompt": ["a"] * 5000}, "prompt", "invalid_value"),
    ({"prompt": "a" * MAX_LEN}, "prompt", "context_length_exceeded"),
    ({"prompt": ["a"] * 1000, "n": 100}, "n", "invalid_value"),
    ({"logprobs": 21}, "logprobs", "invalid_value"),
    ({"logprobs": True}, "logprobs", "invalid_value"),
    ({"suffix": "end"}, "suffix", "unsupported_parameter"),
]
CHAT_FIELDS: list[tuple[dict[str, Any], str, str]] = [
    ({"max_completion_tokens": 0}, "max_completion_tokens", "invalid_value"),
    ({"max_completion_tokens": MAX_LEN}, "max_completion_tokens", "context_length_exceeded"),
    ({"messages": [{"role": "user", "content": "a" * MAX_LEN}]}, "messages", "context_length_exceeded"),
    ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
    ({"logprobs": 5}, "logprobs", "invalid_value"),
    ({"continue_final_message": True, "add_generation_prompt": True}, "messages", "invalid_value"),
    ({"chat_template_kwargs": {"chat_template": "x"}}, "messages", "invalid_value"),
    ({"tool_choice": {"type": "function"}}, "tool_choice", "invalid_value"),
    ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
    ({"modalities": ["audio"]}, "modalities", "unsupported_parameter"),
]


def request_for(path: str, fields: dict[str, Any]) -> dict[str, Any]:
    content = {"prompt": "a"} if path == COMPLETIONS else {"messages": [{"role": "user", "content": "a"}]}
    return {"model": "base", **content, **fields}


@pytest.mark.parametrize(
    ("path", "case"),
    [(path, case) for path in (COMPLETIONS, CHAT) for case in FIELDS]
    + [(COMPLETIONS, case) for case in COMPLETION_FIELDS]
    + [(CHAT, case) for case in CHAT_FIELDS],
)
async def test_a_refusal_names_the_parameter(house: House, path: str, case: tuple[dict[str, Any], str, str]) -> None:
    fields, param, code = case
    response = await house.post(path, request_for(path, fields))
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)
    assert param == "messages" or param.partition("[")[0] in error["message"] or code == "context_length_exceeded"
    assert error["type"] == "invalid_request_error"
    assert house.engine.requests == []
    assert house.registry.leased == []


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b'"x"', b'{"model": "base", "prompt": "\xff"}',
        b'{"model": "\\ud800", "prompt": "a"}', b'{"model": "base", "prompt": "a", "temperature": NaN}',
        b'{"model": "base", "prompt": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"\xef\xbb\xbf{}",
        b'{"model": "base"}', b'{"model": 5, "lora_name": 5, "tokens": 5}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT, "/tokenize", "/detokenize", "/v1/load_lora_adapter"])
async def test_bodies_that_are_no_requests(house: House, path: str, content: bytes) -> None:
    response = await house.http.post(path, content=content)
    assert response.status_code == 400
    assert response.json()["error"]["code"] in ("invalid_json", "invalid_value", "invalid_user_input")


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("model", ["nobody", "sql@9", "base@3", "../base", "x" * 5000, "\x00"])
async def test_an_unknown_model_is_never_the_base(house: House, path: str, model: str) -> None:
    response = await house.post(path, request_for(path, {"model": model}))
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert len(error["message"]) < 300
    assert house.engine.requests == []


async def test_unknown_fields_are_accepted(house: House) -> None:
    fields = {"service_tier": "auto", "x": [{}], "stream_options": {"include_usage": True}, "metadata": None}
    assert (await house.post(CHAT, request_for(CHAT, fields))).status_code == 200


async def test_the_key_is_looked_at_before_anything_else(house: House) -> None:
    for path in (COMPLETIONS, CHAT, "/tokenize", "/v1/models", "/v1/load_lora_adapter", "/nowhere"):
        for headers in ({"authorization": "Bearer wrong"}, {"authorization": ""}):
            response = await house.http.post(path, content=b"{", headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
            assert response.headers["www-authenticate"] == "Bearer"
    problem = await house.http.get("/api/v1/adapters", headers={"authorization": "Bearer wrong"})
    assert (problem.status_code, problem.headers["content-type"]) == (401, "application/problem+json")


async def test_only_admins_go_first(house: House) -> None:
    tenant = {"authorization": f"Bearer {TENANT}"}
    refused = await house.post(COMPLETIONS, request_for(COMPLETIONS, {"priority": -1}), **tenant)
    later = await house.post(COMPLETIONS, request_for(COMPLETIONS, {"priority": 1}), **tenant)
    assert (refused.status_code, refused.json()["error"]["code"], later.status_code) == (403, "forbidden", 200)


async def test_tenants_never_share_a_salt(house: House) -> None:
    for key in (ADMIN, TENANT, OTHER):
        for salt in ("", "a", "salt-of-acme"):
            body = request_for(COMPLETIONS, {"cache_salt": salt, "max_tokens": 1})
            await house.post(COMPLETIONS, body, authorization=f"Bearer {key}")
    assert len({request.cache_salt for request in house.engine.requests}) == 9
    owners = [request.cache_owner for request in house.engine.requests]
    assert len(set(owners)) == 3, "a client's salts are all its tenant's share of the cache"
    assert owners == [owner for owner in owners[::3] for _ in range(3)]
    await house.post(COMPLETIONS, request_for(COMPLETIONS, {"cache_salt": "a"}), authorization=f"Bearer {TENANT}")
    assert house.engine.requests[-1].cache_salt == house.engine.requests[4].cache_salt


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_a_request_says_whether_tokens_are_drafted_for_it(house: House, path: str) -> None:
    for wish in (None, True, False):
        await house.post(path, request_for(path, {"speculation": wish, "max_tokens": 1}))
        assert house.engine.requests[-1].speculation is wish
    response = await house.post(path, request_for(path, {"speculation": "yes"}))
    assert (response.status_code, response.json()["error"]["param"]) == (400, "speculation")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon", "1e9"])
async def test_a_deadline_is_a_sane_number_of_seconds(house: House, seconds: str) -> None:
    response = await house.post(COMPLETIONS, request_for(COMPLETIONS, {}), **{"x-request-timeout": seconds})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "X-Request-Timeout")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
NAMES = sorted({name for fields, _, _ in (*FIELDS, *COMPLETION_FIELDS, *CHAT_FIELDS) for name in fields})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=st.dictionaries(st.sampled_from(NAMES), JSON, max_size=3), path=st.sampled_from([COMPLETIONS, CHAT]))
async def test_no_input_is_our_failure(house: House, fields: dict[str, Any], path: str) -> None:
    response = await house.post(path, {"max_tokens": 2, **request_for(path, fields)})
    assert response.status_code in (200, 400, 404)
