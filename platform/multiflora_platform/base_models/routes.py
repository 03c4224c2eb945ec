"""/api/v1/models: the base models of this server, for admins."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_admin
from multiflora_platform.auth.principals import Principal
from multiflora_platform.base_models.model_schemas import LoadedModel, ModelPage, NewModel
from multiflora_platform.base_models.service import BaseModels
from multiflora_platform.web.json_bodies import read_json, schema
from multiflora_platform.web.resources import answers, rendered

router = APIRouter(tags=["models"])
Admin = Annotated[Principal, Depends(require_admin)]


@router.post("/models", status_code=202, openapi_extra=schema(NewModel), responses=answers(LoadedModel, 202))
async def load_model(request: Request, principal: Admin) -> Response:
    """Serves one more base model; its `job` tells how far that is, here and when it is listed."""
    body = await read_json(request, NewModel)
    made = await _models(request).add(body, principal.actor)
    return rendered(made, 202, {"Location": f"/api/v1/models/{made.name}"})


@router.get("/models", responses=answers(ModelPage))
async def list_base_models(request: Request, principal: Admin) -> Response:
    """The one that the server was started with first."""
    return rendered(ModelPage(_models(request).views()))


@router.get("/models/{name}", responses=answers(LoadedModel))
async def get_base_model(request: Request, principal: Admin, name: str) -> Response:
    return rendered(_models(request).view(name))


@router.delete("/models/{name}", status_code=204)
async def unload_model(request: Request, principal: Admin, name: str) -> Response:
    """Its requests end within --drain-timeout, then its engines; adapters stay registered."""
    await _models(request).remove(name, principal.actor)
    return Response(status_code=204)


def _models(request: Request) -> BaseModels:
    return cast(BaseModels, request.app.state.models)
