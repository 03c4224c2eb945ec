"""An explanation that comes with an answer, of the prompt that is being answered, for clients that ask for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.explaining.inquiry import explain_started
from multiflora_platform.gateway.generation.generation import Generation
from multiflora_platform.gateway.schemas.requests import ChatRequest
from multiflora_platform.groups import Group
from multiflora_platform.insight.views.misses import CacheExplanation
from multiflora_platform.services import Services


class Diagnosed(Protocol):
    """A writer that shows it."""

    diagnostics: CacheExplanation | None


def diagnosing(
    services: Services,
    group: Group,
    principal: Principal,
    generation: Generation,
    chat: ChatRequest,
    compare: str,
    writer: Diagnosed,
) -> Callable[[], Awaitable[None]] | None:
    """For `respond`. compare: the earlier answer's id, as the request has it."""
    if not services.settings.enable_prefix_caching:
        return None

    async def diagnose() -> None:
        writer.diagnostics = await explain_started(services, group, principal, generation.request.id, chat, compare)

    return diagnose
