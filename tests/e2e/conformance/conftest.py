"""The demo's server, clients of it, and the plain answers that cases are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from tests.e2e.conformance.answers import from_whole
from tests.e2e.conformance.cases import CHAT, COMPLETIONS, CONTENT, LENGTH, Plain


@pytest.fixture(scope="module")
def http(demo: Any) -> Iterator[httpx.Client]:
    with demo.http() as client:
        yield client


@pytest.fixture(scope="module")
def client(demo: Any) -> Iterator[openai.OpenAI]:
    with demo.openai() as client:
        yield client


@pytest.fixture(scope="module")
def plains(http: httpx.Client) -> dict[str, Plain]:
    made = {}
    for path in (CHAT, COMPLETIONS):
        body = {"model": "sql", "temperature": 0, "max_tokens": LENGTH, "return_token_ids": True, **CONTENT[path]}
        answer = http.post(path, json=body).raise_for_status().json()
        choice = from_whole(answer).choices[0]
        prompt = answer.get("prompt_token_ids") or answer["choices"][0]["prompt_token_ids"]
        assert len(choice.token_ids) == LENGTH, "the cases cut answers of full length"
        made[path] = Plain(choice.text, choice.token_ids, prompt)
    return made
