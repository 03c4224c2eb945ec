"""GET /api/v1/cache/drift: prompts that miss the cache over and over at one place. For every key, its tenant's own."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.groups import ServedModel
from multiflora_platform.insight.views.misses import DriftItem, DriftPage
from multiflora_platform.services import Services
from multiflora_platform.web.resources import answers, rendered

router = APIRouter(tags=["insight"])


@router.get("/cache/drift", responses=answers(DriftPage))
async def list_drift(request: Request, principal: Annotated[Principal, Depends(require_key)]) -> Response:
    """Where the last hour's prompts part over and over, by what, its cost, and the fix; admins see all tenants'."""
    services: Services = request.app.state.services
    items = services.insight.drift_items(principal.tenant, of_all=principal.is_admin)
    groups = [group for group in services.groups if group is services.groups.default or principal.may_use(group.name)]
    of_templates = [item for group in groups for item in await _of_template(group.model)]
    return rendered(DriftPage([*items, *of_templates]))


async def _of_template(model: ServedModel) -> list[DriftItem]:
    """What the chat template itself does to all prompts of chats; counted is nothing."""
    findings = await asyncio.to_thread(lambda: model.tokenizer.template_findings)
    return [
        DriftItem(
            tenant=None,
            model=model.name,
            message=None,
            role=None,
            position=finding.position,
            kind=finding.kind,
            share=1.0,
            prompts=0,
            lost_tokens=0,
            lost_seconds_per_minute=0.0,
            example=finding.example,
            advice=f"{finding.found}. {finding.advice}",
        )
        for finding in findings
    ]
