"""POST /v1/score and /score (vLLM's calls): how near texts are to each other, as the cosine of their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.generation.admission import Admission
from multiflora_platform.gateway.generation.generation import Generation
from multiflora_platform.gateway.generation.usage import embedding_usage
from multiflora_platform.gateway.routes.vectors import Inputs, answer_with_vectors, unit_vector
from multiflora_platform.gateway.schemas.answers import (
    Score,
    ScoreList,
)
from multiflora_platform.gateway.schemas.decoding import body_schema, read_body
from multiflora_platform.gateway.schemas.requests import ScoreRequest
from multiflora_platform.web.openai_errors import invalid

router = APIRouter(tags=["inference"])


@router.post("/score", include_in_schema=False)
@router.post("/v1/score", openapi_extra=body_schema(ScoreRequest))
async def score(request: Request, principal: Principal = Depends(require_key)) -> Response:
    """One text beside several, or two lists of equal length pair by pair."""
    body = await read_body(request, ScoreRequest)
    first, left = _texts("text_1", body.text_1, "queries", body.queries)
    second, right = _texts("text_2", body.text_2, "documents", body.documents)
    if len(left) not in (1, len(right)):
        raise invalid(second, f"{second} has {len(right)} texts and {first} {len(left)}; {first} has one or as many.")
    inputs: Inputs = ((first, left), (second, right))
    return await answer_with_vectors(request, principal, body, inputs, partial(_answer, body, len(left)))


def _texts(
    name: str, value: str | list[str] | None, later_name: str, later: str | list[str] | None
) -> tuple[str, list[str | int | list[int]]]:
    """The texts, and the one of their two names that the request has."""
    if value is None and later is None:
        raise invalid(name, f"{name} is required.")
    if value is not None and later is not None:
        raise invalid(later_name, f"{name} and {later_name} are two names of one parameter; give one of them.")
    given = later if value is None else value
    return later_name if value is None else name, [given] if isinstance(given, str) else [*(given or ())]


def _answer(body: ScoreRequest, num_left: int, admission: Admission, generations: Sequence[Generation]) -> ScoreList:
    vectors = [unit_vector(generation) for generation in generations]
    left, right = np.array(vectors[:num_left]), np.array(vectors[num_left:])
    return ScoreList(
        id=f"score-{admission.id}",
        created=int(admission.arrival),
        model=body.model,
        data=[Score(index=index, score=value) for index, value in enumerate((left * right).sum(axis=1).tolist())],
        usage=embedding_usage(generations),
    )
