"""POST /v1/rerank, /rerank, /v2/rerank, as Jina's, Cohere's and vLLM's clients call it: the texts nearest to a query.

As near as their embeddings are; a causal model has no head that would judge them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.generation.admission import Admission, admit
from multiflora_platform.gateway.generation.collect import collect_all, until_disconnect
from multiflora_platform.gateway.generation.generation import Generation
from multiflora_platform.gateway.generation.respond import version_headers
from multiflora_platform.gateway.generation.usage import embedding_usage
from multiflora_platform.gateway.routes.embeddings import start_embeddings, unit_vector
from multiflora_platform.gateway.schemas.answers import RankedDocument, RankedText, Reranking, encode
from multiflora_platform.gateway.schemas.decoding import body_schema, read_body
from multiflora_platform.gateway.schemas.requests import RerankRequest
from multiflora_platform.services import Services
from multiflora_platform.text.off_loop import off_loop
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
    services: Services = request.app.state.services
    admission = await admit(services, request, principal, body)
    try:
        inputs: tuple[Any, Any] = ("query", [body.query]), ("documents", texts)
        generations = await start_embeddings(services, admission, body, *inputs)
        await until_disconnect(request.receive, collect_all(generations))
        size = sum(map(len, texts))
        content = await off_loop(size, lambda: encode(_answer(admission, body, texts, generations)))
        ids = [generation.request.id for generation in generations]
        headers = version_headers(admission) | services.answer_headers(admission.principal, ids)
        return Response(content, media_type="application/json", headers=headers)
    finally:
        admission.close()


def _text(index: int, document: str | dict[str, Any]) -> str:
    text = document if isinstance(document, str) else document.get("text")
    if not isinstance(text, str):
        raise invalid("documents", f"documents[{index}] is neither a text nor an object with one under text.")
    return text


def _answer(
    admission: Admission, body: RerankRequest, texts: Sequence[str], generations: Sequence[Generation]
) -> Reranking:
    query, *vectors = [unit_vector(generation) for generation in generations]
    scores = np.array(vectors) @ query
    nearest = np.argsort(-scores, kind="stable")[: body.top_n or None].tolist()
    shown = body.return_documents is not False
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
