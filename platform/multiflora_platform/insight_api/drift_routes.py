"""GET /api/v1/cache/drift: prompts that miss the cache over and over at one place. For every key, its tenant's own."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.insight.views import DriftPage
from multiflora_platform.services import Services
from multiflora_platform.web.resources import answers, rendered

router = APIRouter(tags=["insight"])


@router.get("/cache/drift", responses=answers(DriftPage))
async def list_drift(request: Request, principal: Annotated[Principal, Depends(require_key)]) -> Response:
    """Where the last hour's prompts part over and over, by what, its cost, and the fix; admins see all tenants'."""
    services: Services = request.app.state.services
    return rendered(DriftPage(services.insight.drift_items(principal.tenant, of_all=principal.is_admin)))
