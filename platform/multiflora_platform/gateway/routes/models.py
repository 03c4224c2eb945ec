"""GET /v1/models and /v1/models/{id}: the base model first, then every adapter that `model=name` reaches, with its
aliases. Anthropic's clients, known by their anthropic-version header, get Anthropic's shapes."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.generation.admission import find_model
from multiflora_platform.gateway.generation.model_resolution import ADAPTERS_ARE_OFF
from multiflora_platform.gateway.messages_api.model_cards import model_info, model_page
from multiflora_platform.groups import Group
from multiflora_platform.registry.snapshot.snapshot import DEFAULT, ServedAdapter
from multiflora_platform.services import Services
from multiflora_platform.web.anthropic_errors import speaks_anthropic
from multiflora_platform.web.openai_errors import model_not_found

router = APIRouter(tags=["inference"], dependencies=[Depends(require_key)])
_OWNER = "multiflora"


@router.get("/v1/models")
async def list_models(request: Request) -> Response:
    services: Services = request.app.state.services
    principal: Principal = request.state.principal
    usable = (group for group in services.groups if principal.may_use(group.name))
    cards = [_base_card(group, principal, name) for group in usable for name in group.model.names]
    adapters = services.registry.served() if services.settings.enable_lora else ()
    for adapter in adapters:
        group = services.groups.of_base(adapter.base_digest)
        if group is not None and principal.may_use(adapter.name, adapter.owner):
            cards += _adapter_cards(group, adapter)
    is_anthropic = speaks_anthropic(request.scope)
    return _json(model_page(cards) if is_anthropic else {"object": "list", "data": cards})


@router.get("/v1/models/{model:path}")
async def show_model(request: Request, model: str) -> Response:
    """model: any that requests may name, `name@alias` and `name@3` too."""
    services: Services = request.app.state.services
    resolved = await find_model(services, request, model)
    card = _resolved_card(services, resolved.group, request.state.principal, model, resolved.adapter)
    return _json(model_info(card) if speaks_anthropic(request.scope) else card)


def _resolved_card(
    services: Services, group: Group, principal: Principal, model: str, name: str | None
) -> dict[str, Any]:
    """name: of the adapter that the model resolved to, None for the base. Raises ApiError."""
    if name is None:
        return _base_card(group, principal, model)
    if not services.settings.enable_lora:
        raise model_not_found(model, reason=ADAPTERS_ARE_OFF)
    for adapter in services.registry.served():
        if adapter.name == name:
            return _adapter_card(group, adapter, model)
    if model == name:
        raise model_not_found(model)
    return _card(group.max_model_len, model, name, group.name, group.model.created)


def _base_card(group: Group, principal: Principal, name: str) -> dict[str, Any]:
    """name: one of the base's. root: where the model came from, for admins; it may be a path of the server."""
    root = group.model.root if principal.is_admin else group.name
    return _card(group.max_model_len, name, root, None, group.model.created)


def _adapter_cards(group: Group, adapter: ServedAdapter) -> list[dict[str, Any]]:
    """The name, which follows `default`, and every other alias."""
    others = sorted(alias for alias in adapter.aliases if alias != DEFAULT)
    names = [adapter.name, *(f"{adapter.name}@{alias}" for alias in others)]
    return [_adapter_card(group, adapter, name) for name in names]


def _adapter_card(group: Group, adapter: ServedAdapter, model: str) -> dict[str, Any]:
    """model: the name, `name@alias` or `name@3`."""
    selector = model.partition("@")[2] or DEFAULT
    root = f"{adapter.name}@{adapter.aliases.get(selector, selector)}"
    return _card(group.max_model_len, model, root, group.name, adapter.created)


def _card(length: int, model: str, root: str, parent: str | None, created: int) -> dict[str, Any]:
    return {
        "id": model,
        "object": "model",
        "created": created,
        "owned_by": _OWNER,
        "root": root,
        "parent": parent,
        "max_model_len": length,
    }


def _json(content: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
