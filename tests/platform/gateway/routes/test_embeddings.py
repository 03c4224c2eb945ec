"""/v1/embeddings as OpenAI's clients use it: shapes, both encodings, token arrays, adapters, and what is refused."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from tests.platform.gateway.house import MAX_LEN, House

INPUTS: dict[str, tuple[Any, int]] = {
    "a string": ("ab", 1),
    "strings": (["ab", "c"], 2),
    "token ids": ([1, 2, 3], 1),
    "lists of token ids": ([[1, 2], [3]], 2),
    "as long as the model": ("a" * MAX_LEN, 1),
}


@pytest.mark.parametrize("name", INPUTS)
async def test_one_vector_for_each_input(house: House, name: str) -> None:
    content, count = INPUTS[name]
    answer = (await house.post("/v1/embeddings", {"model": "sql", "input": content})).json()
    assert (answer["object"], answer["model"]) == ("list", "sql")
    assert [(row["object"], row["index"]) for row in answer["data"]] == [("embedding", i) for i in range(count)]
    lengths = [len(request.prompt_token_ids) for request in house.engine.requests]
    details = {"cached_tokens": sum(n // 2 for n in lengths), "cache_write_tokens": sum(n // 3 for n in lengths)}
    tokens = sum(lengths)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens, "prompt_tokens_details": details}
    for row in answer["data"]:
        assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-6)
    for request in house.engine.requests:
        assert (request.pooling, request.params.max_tokens, request.adapter_digest) == ("last", 0, "d" * 64)
    assert not house.services.active


async def test_base64_is_the_same_floats(house: House) -> None:
    body = {"model": "base", "input": "ab", "pooling": "mean"}
    floats = (await house.post("/v1/embeddings", {**body, "encoding_format": "float"})).json()["data"][0]["embedding"]
    text = (await house.post("/v1/embeddings", {**body, "encoding_format": "base64"})).json()["data"][0]["embedding"]
    assert np.frombuffer(base64.b64decode(text), "<f4").tolist() == pytest.approx(floats, abs=1e-7)
    assert {request.pooling for request in house.engine.requests} == {"mean"}


async def test_not_normalised_when_asked(house: House) -> None:
    answer = await house.post("/v1/embeddings", {"model": "base", "input": "ab", "normalize": False})
    assert answer.json()["data"][0]["embedding"] == [3.0, 4.0]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"dimensions": 64}, "dimensions", "unsupported_parameter"),
        ({"encoding_format": "int8"}, "encoding_format", "invalid_value"),
        ({"pooling": "max"}, "pooling", "invalid_value"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": ""}, "input", "invalid_value"),
        ({"input": [10**9]}, "input", "invalid_value"),
        ({"input": "a" * (MAX_LEN + 1)}, "input", "context_length_exceeded"),
        ({"input": None}, "input", "invalid_value"),
    ],
)
async def test_refusals(house: House, fields: dict[str, Any], param: str, code: str) -> None:
    response = await house.post("/v1/embeddings", {"model": "base", "input": "a", **fields})
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)
    assert not house.engine.requests


async def test_an_unknown_model_is_a_404(house: House) -> None:
    response = await house.post("/v1/embeddings", {"model": "nobody", "input": "a"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


async def test_scores_are_cosines_of_pairs(house: House) -> None:
    body = {"model": "sql", "text_1": "ab", "text_2": ["c", "def"]}
    answer = (await house.post("/v1/score", body)).json()
    assert [(row["object"], row["index"]) for row in answer["data"]] == [("score", 0), ("score", 1)]
    assert [row["score"] for row in answer["data"]] == pytest.approx([1, 1])
    assert answer["usage"]["prompt_tokens"] == 6
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 2, "cache_write_tokens": 1}
    assert len(house.engine.requests) == 3
    short = (await house.post("/score", body)).json()  # vLLM's other path
    assert [entry["score"] for entry in short["data"]] == [entry["score"] for entry in answer["data"]]
    pairs = (await house.post("/v1/score", {**body, "text_1": ["a", "b"]})).json()
    assert len(pairs["data"]) == 2


async def test_scores_by_the_later_names_of_their_texts(house: House) -> None:
    texts = {"text_1": "ab", "text_2": ["c", "def"]}
    later = {"queries": "ab", "documents": ["c", "def"]}
    answers = [(await house.post("/v1/score", {"model": "sql", **names})).json()["data"] for names in (texts, later)]
    assert answers[0] == answers[1]
    for fields, param in (
        ({**texts, **later}, "queries"),
        ({"queries": "a"}, "text_2"),
        ({"documents": ["a"]}, "text_1"),
    ):
        response = await house.post("/v1/score", {"model": "sql", **fields})
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    response = await house.post("/v1/score", {"model": "sql", "queries": ["a", "b"], "documents": ["c"]})
    assert response.json()["error"]["message"] == "documents has 1 texts and queries 2; queries has one or as many."


async def test_pooling_has_the_vectors_of_embeddings(house: House) -> None:
    body = {"model": "sql", "input": ["ab", "c"]}
    vectors = (await house.post("/v1/embeddings", body)).json()
    answer = (await house.post("/pooling", body)).json()
    assert [(row["object"], row["index"]) for row in answer["data"]] == [("pooling", 0), ("pooling", 1)]
    assert [row["data"] for row in answer["data"]] == [row["embedding"] for row in vectors["data"]]
    assert (answer["object"], answer["usage"]) == ("list", vectors["usage"])


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"text_2": []}, "text_2"), ({"text_1": ["a", "b", "c"]}, "text_2"), ({"text_1": ""}, "text_1")],
)
async def test_scores_need_pairs(house: House, fields: dict[str, Any], param: str) -> None:
    response = await house.post("/v1/score", {"model": "sql", "text_1": "a", "text_2": ["b", "c"], **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert not house.engine.requests
