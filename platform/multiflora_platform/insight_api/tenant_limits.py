"""The tenant's limits for calls under /api that make prompts: they count as one that generates does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import Request

from multiflora_platform.auth.limits.limits import Claim
from multiflora_platform.auth.principals import Principal
from multiflora_platform.services import Services
from multiflora_platform.web.problems import Problem


@asynccontextmanager
async def within_limits(request: Request, principal: Principal) -> AsyncIterator[Claim]:
    """One request, running until the end; the claim takes its prompt's tokens, and gives them back where the request is
    refused. Raises LimitReached, Unavailable."""
    services: Services = request.app.state.services
    request.state.limited = principal  # its answer tells what is left
    claim = await services.limits.admit(principal)
    try:
        yield claim
    except Problem:
        claim.give_back()
        raise
    finally:
        claim.close()
