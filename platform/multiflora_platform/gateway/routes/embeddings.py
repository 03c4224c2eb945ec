"""POST /v1/embeddings, and vLLM's /pooling: prompts as vectors, of the base model, an adapter or a mix."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import partial

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.generation.admission import Admission
from multiflora_platform.gateway.generation.generation import Generation
from multiflora_platform.gateway.generation.usage import embedding_usage
from multiflora_platform.gateway.routes.vectors import answer_with_vectors, raw_vector, unit_vector, written
from multiflora_platform.gateway.schemas.answers import (
    Embedding,
    EmbeddingList,
    PooledVector,
    encode,
)
from multiflora_platform.gateway.schemas.decoding import body_schema, read_body
from multiflora_platform.gateway.schemas.requests import EmbeddingRequest
from multiflora_platform.web.openai_errors import unsupported

router = APIRouter(tags=["inference"])

WriteOne = Callable[[int, list[float] | str], msgspec.Struct]
"""One vector of the answer: of its place and what it holds."""


@router.post("/v1/embeddings", openapi_extra=body_schema(EmbeddingRequest))
async def embeddings(request: Request, principal: Principal = Depends(require_key)) -> Response:
    """The model's last hidden state of each input, after the final norm, brought to length one."""
    return await _vectors(request, principal, lambda index, vector: Embedding(index=index, embedding=vector), "embd")


@router.post("/pooling", include_in_schema=False)
async def pooling(request: Request, principal: Principal = Depends(require_key)) -> Response:
    """The same vectors, as vLLM writes them there."""
    return await _vectors(request, principal, lambda index, vector: PooledVector(index=index, data=vector), "pool")


async def _vectors(request: Request, principal: Principal, write: WriteOne, prefix: str) -> Response:
    """prefix: of the answer's id."""
    body = await read_body(request, EmbeddingRequest)
    if body.dimensions is not None:
        raise unsupported("dimensions", "dimensions is not supported: this model's embeddings have one size.")
    inputs = (("input", body.input),)
    return await answer_with_vectors(request, principal, body, inputs, partial(_answer, body, write, prefix), written)


def _answer(
    body: EmbeddingRequest, write: WriteOne, prefix: str, admission: Admission, generations: list[Generation]
) -> EmbeddingList:
    return EmbeddingList(
        id=f"{prefix}-{admission.id}",
        created=int(admission.arrival),
        model=body.model,
        # Each written by itself: one call for all of them would keep the interpreter lock for as long as it takes.
        data=[msgspec.Raw(encode(write(i, _vector(g, body)))) for i, g in enumerate(generations)],
        usage=embedding_usage(generations),
    )


def _vector(generation: Generation, body: EmbeddingRequest) -> list[float] | str:
    vector = raw_vector(generation) if body.normalize is False else unit_vector(generation)
    if body.encoding_format == "base64":
        return base64.b64encode(vector.tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers
