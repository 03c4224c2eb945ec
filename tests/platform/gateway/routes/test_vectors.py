"""Answers made of vectors are computed off the event loop where there are many of them, however short the texts."""

from __future__ import annotations

import threading
from types import ModuleType
from typing import Any

import pytest
from tests.platform.gateway.house import House

from multiflora_platform.gateway.generation.generation import Generation
from multiflora_platform.gateway.routes import embeddings, reranking, scores, vectors

LONG = ["a" * 200] * 25


@pytest.mark.parametrize(
    ("module", "path", "body", "is_inline"),
    [
        (reranking, "/v1/rerank", {"query": "a", "documents": ["b"] * 8}, True),
        (reranking, "/v1/rerank", {"query": "a", "documents": ["b"] * 80}, False),
        (reranking, "/v1/rerank", {"query": "a", "documents": LONG}, False),
        (reranking, "/v1/rerank", {"query": "a", "documents": LONG, "return_documents": False}, True),
        (scores, "/v1/score", {"text_1": "a", "text_2": ["b"] * 8}, True),
        (scores, "/v1/score", {"text_1": "a", "text_2": ["b"] * 80}, False),
        (embeddings, "/v1/embeddings", {"input": ["a"] * 80}, True),  # of two numbers each
    ],
)
async def test_the_work_is_sized_by_the_vectors_and_what_is_repeated(
    house: House, monkeypatch: pytest.MonkeyPatch, module: ModuleType, path: str, body: dict[str, Any], is_inline: bool
) -> None:
    threads = set()

    def watched(generation: Generation) -> Any:
        threads.add(threading.current_thread())
        return vectors.unit_vector(generation)

    monkeypatch.setattr(module, "unit_vector", watched)
    response = await house.post(path, {"model": "sql", **body})
    assert response.status_code == 200, response.text
    assert (threads == {threading.current_thread()}) == is_inline
    assert not house.services.active
