"""POST /v1/rerank, /rerank, /v2/rerank, as Jina's, Cohere's and vLLM's clients call it: the texts nearest to a query.

As near as their embeddings are; a causal model has no head that would judge them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.generation.admission import Admission
from multiflora_platform.gateway.generation.generation import Generation
from multiflora_platform.gateway.generation.usage import embedding_usage
from multiflora_platform.gateway.routes.vectors import Inputs, answer_with_vectors, unit_vector
from multiflora_platform.gateway.schemas.answers import RankedDocument, RankedText, Reranking
from multiflora_platform.gateway.schemas.decoding import body_schema, read_body
from multiflora_platform.gateway.schemas.requests import RerankRequest
from multiflora_platform.web.openai_errors import invalid

router = APIRouter(tags=["inference"])


@router.post("/rerank", include_in_schema=False)
@router.post("/v2/rerank", include_in_schema=False)
@router.post("/v1/rerank", openapi_extra=body_schema(RerankRequest))
async def rerank(request: Request, principal: Principal = Depends(require_key)) -> Response:
    """The documents by the cosine of their embeddings with the query's, the nearest first."""
    body = await read_body(request, RerankRequest)
    texts = [_text(index, document) for index, document in enumerate(body.documents)]
    if (body.top_n or 0) < 0:
        raise invalid("top_n", f"top_n must be at least 0, got {body.top_n}.")
    inputs: Inputs = (("query", [body.query]), ("documents", [*texts]))
    write, echoed = partial(_answer, body, texts), sum(map(len, texts)) if _is_echoing(body) else 0
    return await answer_with_vectors(request, principal, body, inputs, write, echoed=echoed)


def _text(index: int, document: str | dict[str, Any]) -> str:
    text = document if isinstance(document, str) else document.get("text")
    if not isinstance(text, str):
        raise invalid("documents", f"documents[{index}] is neither a text nor an object with one under text.")
    return text


def _is_echoing(body: RerankRequest) -> bool:
    return body.return_documents is not False


def _answer(
    body: RerankRequest, texts: Sequence[str], admission: Admission, generations: Sequence[Generation]
) -> Reranking:
    query, *vectors = [unit_vector(generation) for generation in generations]
    scores = np.array(vectors) @ query
    nearest = np.argsort(-scores, kind="stable")[: body.top_n or None].tolist()
    shown = _is_echoing(body)
    return Reranking(
        id=f"rerank-{admission.id}",
        model=body.model,
        results=[
            RankedDocument(
                index=index,
                relevance_score=float(scores[index]),
                document=RankedText(texts[index]) if shown else None,
            )
            for index in nearest
        ],
        usage=embedding_usage(generations),
    )
