"""POST /v1/embeddings, and vLLM's /pooling: prompts as vectors, of the base model, an adapter or a mix."""

from __future__ import annotations

import base64
from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.generation.admission import Admission, admit
from multiflora_platform.gateway.generation.collect import collect_all, until_disconnect
from multiflora_platform.gateway.generation.generation import Generation
from multiflora_platform.gateway.generation.respond import version_headers
from multiflora_platform.gateway.generation.start import start
from multiflora_platform.gateway.generation.usage import embedding_usage
from multiflora_platform.gateway.prompting.sampling import output_length
from multiflora_platform.gateway.prompting.tokenize import (
    Prompt,
    PromptRoom,
    text_prompts,
    truncate,
)
from multiflora_platform.gateway.schemas.answers import (
    Embedding,
    EmbeddingList,
    PooledVector,
    encode,
)
from multiflora_platform.gateway.schemas.decoding import body_schema, read_body
from multiflora_platform.gateway.schemas.requests import EmbeddingRequest, PoolingRequest
from multiflora_platform.services import Services
from multiflora_platform.text.off_loop import off_loop
from multiflora_platform.web.openai_errors import unsupported

router = APIRouter(tags=["inference"])

Write = Callable[[int, list[float] | str], msgspec.Struct]
"""One vector of the answer: of its place and what it holds."""


@router.post("/v1/embeddings", openapi_extra=body_schema(EmbeddingRequest))
async def embeddings(request: Request, principal: Principal = Depends(require_key)) -> Response:
    """The model's last hidden state of each input, after the final norm, brought to length one."""
    return await _vectors(request, principal, lambda index, vector: Embedding(index=index, embedding=vector), "embd")


@router.post("/pooling", include_in_schema=False)
async def pooling(request: Request, principal: Principal = Depends(require_key)) -> Response:
    """The same vectors, as vLLM writes them there."""
    return await _vectors(request, principal, lambda index, vector: PooledVector(index=index, data=vector), "pool")


async def _vectors(request: Request, principal: Principal, write: Write, prefix: str) -> Response:
    """prefix: of the answer's id."""
    body = await read_body(request, EmbeddingRequest)
    if body.dimensions is not None:
        raise unsupported("dimensions", "dimensions is not supported: this model's embeddings have one size.")
    services: Services = request.app.state.services
    admission = await admit(services, request, principal, body)
    try:
        generations = await start_embeddings(services, admission, body, ("input", body.input))
        await until_disconnect(request.receive, collect_all(generations))
        size = sum(len(_raw_vector(generation)) for generation in generations)
        content = await off_loop(size, lambda: encode(_answer(admission, body, generations, write, prefix)))
        ids = [generation.request.id for generation in generations]
        headers = version_headers(admission) | services.answer_headers(admission.principal, ids)
        return Response(content, media_type="application/json", headers=headers)
    finally:
        admission.close()


async def start_embeddings(
    services: Services, admission: Admission, body: PoolingRequest, *inputs: tuple[str, Prompt]
) -> list[Generation]:
    """inputs: (the request's parameter, its texts or ids); their prompts follow each other. Raises ApiError."""
    model, limit = services.model, services.max_model_len
    prompts = []
    params = SamplingParams(max_tokens=0)
    special = body.add_special_tokens is not False
    room = PromptRoom(limit, 0, is_cut=bool(body.truncate_prompt_tokens))
    for param, texts in inputs:
        for ids in await text_prompts(param, texts, special, model.tokenizer, model.vocab_size, room):
            ids = truncate(ids, body.truncate_prompt_tokens, limit, 0)
            output_length(len(ids), 0, None, limit, (param, param))
            prompts.append((ids, params))
    return await start(services, admission, prompts, pooling=body.pooling or "last")


def unit_vector(generation: Generation) -> npt.NDArray[np.float32]:
    """The prompt's embedding, of length one."""
    vector = _raw_vector(generation)
    unit: npt.NDArray[np.float32] = (vector / max(float(np.linalg.norm(vector.astype(np.float64))), 1e-12)).astype(
        "<f4"
    )
    return unit


def _answer(
    admission: Admission, body: EmbeddingRequest, generations: list[Generation], write: Write, prefix: str
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
    vector = _raw_vector(generation) if body.normalize is False else unit_vector(generation)
    if body.encoding_format == "base64":
        return base64.b64encode(vector.tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers


def _raw_vector(generation: Generation) -> npt.NDArray[np.float32]:
    assert generation.embedding is not None, "a pooling request ends with its embedding"
    return np.frombuffer(generation.embedding, "<f4")
