"""`?model=`: of several base models the one whose engines a route tells of."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_admin
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.generation.model_resolution import resolve_model
from multiflora_platform.gateway.refusals import as_problems
from multiflora_platform.groups import Group
from multiflora_platform.services import Services

AskedModel = Annotated[str | None, Query(description="a base model, or an adapter of it; without it, the default one")]


async def _asked_group(
    request: Request, principal: Annotated[Principal, Depends(require_admin)], model: AskedModel = None
) -> Group:
    """Raises AdapterNotFound."""
    services: Services = request.app.state.services
    if model is None:
        return services.groups.default
    with as_problems():
        known = services.groups.known_as(model)
        return resolve_model(services.registry, services.groups, principal, known, None).group


AskedGroup = Annotated[Group, Depends(_asked_group)]
