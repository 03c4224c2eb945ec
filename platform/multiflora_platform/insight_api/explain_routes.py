"""POST /api/v1/cache:explain: why the prefix cache has no more of a prompt. For every key, about its tenant's own."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.explaining.inquiry import UnknownRequest, explain_prompt
from multiflora_platform.gateway.refusals import as_problems
from multiflora_platform.insight.bodies import CacheQuestion
from multiflora_platform.insight.views.misses import CacheExplanation
from multiflora_platform.insight_api.engine_calls import reaching_engine
from multiflora_platform.insight_api.errors import RequestForgotten
from multiflora_platform.insight_api.tenant_limits import within_limits
from multiflora_platform.services import Services
from multiflora_platform.web.json_bodies import read_json, schema
from multiflora_platform.web.problems import InvalidRequest
from multiflora_platform.web.resources import answers, rendered

router = APIRouter(tags=["insight"])


@router.post("/cache:explain", responses=answers(CacheExplanation), openapi_extra=schema(CacheQuestion))
async def explain_cache(request: Request, principal: Annotated[Principal, Depends(require_key)]) -> Response:
    """What the prefix cache has of a prompt, where it parts from an earlier one, and why. Nothing is generated."""
    body = await read_json(request, CacheQuestion)
    services: Services = request.app.state.services
    if not services.settings.enable_prefix_caching:
        raise InvalidRequest("This server runs without a prefix cache (--no-enable-prefix-caching).", pointer="")
    try:
        async with within_limits(request, principal) as claim:
            with reaching_engine(), as_problems():
                return rendered(await explain_prompt(services, principal, body, claim))
    except UnknownRequest:
        detail = f"No prompt of {body.compare!r} is kept; the newest 100 of a tenant are, up to 524,288 tokens."
        raise RequestForgotten(detail, pointer="/compare") from None
