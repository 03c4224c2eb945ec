"""Documents ranked for a query, as Jina's and Cohere's clients call it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.platform.gateway.house import House

BODY: dict[str, Any] = {"model": "sql", "query": "ask", "documents": ["far", {"text": "near"}, "opposite", "near"]}
VECTORS = {"ask": (1.0, 0.0), "far": (3.0, 4.0), "near": (2.0, 0.0), "opposite": (-1.0, 0.0)}


@pytest.fixture(autouse=True)
def vectors(house: House) -> None:
    for text, vector in VECTORS.items():
        house.engine.vectors[tuple(house.services.model.tokenizer.encode(text, True))] = vector


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
async def test_the_nearest_stand_first(path: str, house: House) -> None:
    answer = (await house.post(path, BODY)).json()
    results = [(row["index"], row["document"]["text"], row["relevance_score"]) for row in answer["results"]]
    assert [row[:2] for row in results] == [(1, "near"), (3, "near"), (0, "far"), (2, "opposite")]
    assert [row[2] for row in results] == pytest.approx([1.0, 1.0, 0.6, -1.0])
    assert (answer["model"], answer["id"][:7]) == ("sql", "rerank-")
    lengths = [len(request.prompt_token_ids) for request in house.engine.requests]
    assert len(lengths) == 5
    assert answer["usage"]["total_tokens"] == sum(lengths)


async def test_as_many_as_are_wanted_without_their_texts(house: House) -> None:
    answer = (await house.post("/v1/rerank", {**BODY, "top_n": 2, "return_documents": False})).json()
    assert [sorted(row) for row in answer["results"]] == [["index", "relevance_score"]] * 2
    assert [row["index"] for row in answer["results"]] == [1, 3]
    for all_of_them in (0, None, 9):
        answer = (await house.post("/v1/rerank", {**BODY, "top_n": all_of_them})).json()
        assert len(answer["results"]) == 4


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": ["a", {"title": "b"}]}, "documents"),
        ({"documents": ["a", {"text": 5}]}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": ["a", ""]}, "documents"),
        ({"query": ""}, "query"),
        ({"query": None}, "query"),
        ({"query": ["a"]}, "query"),
        ({"top_n": -1}, "top_n"),
        ({"top_n": "two"}, "top_n"),
    ],
)
async def test_refusals(fields: dict[str, Any], param: str, house: House) -> None:
    response = await house.post("/v1/rerank", {**BODY, **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert not house.engine.requests


async def test_an_unknown_model_is_a_404(house: House) -> None:
    response = await house.post("/v1/rerank", {**BODY, "model": "nobody"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
