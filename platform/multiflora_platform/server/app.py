"""The HTTP application: routers, error pages and middleware around one Services. Starts and stops nothing."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute

from multiflora_platform.base_models.kept_models import KeptModels
from multiflora_platform.base_models.service import BaseModels
from multiflora_platform.batches import calls as batch_calls
from multiflora_platform.batches import files
from multiflora_platform.batches.service import make_batch_service
from multiflora_platform.evals.service import make_eval_service
from multiflora_platform.gateway.background.context_keeper import ContextKeeper
from multiflora_platform.gateway.in_process import BackgroundTurns
from multiflora_platform.gateway.routes import (
    chat,
    completions,
    embeddings,
    messages,
    models,
    reranking,
    scores,
    tokenization,
)
from multiflora_platform.gateway.routes import responses as response_calls
from multiflora_platform.gateway.routes import vllm_adapters as lora_calls
from multiflora_platform.gateway.schemas.decoding import component_schemas
from multiflora_platform.server import docs_page, health
from multiflora_platform.server.middleware import AccessLog, BodyLimit, Guard
from multiflora_platform.server.openapi import describe as described
from multiflora_platform.server.openapi import operation_id
from multiflora_platform.server.rest_api import router as registry_router
from multiflora_platform.services import Services
from multiflora_platform.settings import Settings
from multiflora_platform.ui.routes import router as ui_router
from multiflora_platform.web import error_responses


def create_app(services: Services) -> FastAPI:
    """services: reached by routes as `request.app.state.services`; the caller has started its engine and registry."""
    app = FastAPI(
        title="Multiflora",
        version=_version(),
        docs_url=None,
        redoc_url=None,
        openapi_url=None if services.settings.disable_fastapi_docs else "/openapi.json",
        servers=[{"url": services.settings.root_path.rstrip("/")}] if services.settings.root_path else None,
        generate_unique_id_function=operation_id,
    )
    app.state.services = services
    app.state.keeper = ContextKeeper(services)
    app.state.models = BaseModels(services, KeptModels(services.registry.database))
    turns = BackgroundTurns(app, services.engine)
    app.state.batches = make_batch_service(turns, services)
    app.state.evals = make_eval_service(turns, services)
    app.router.routes.extend(_routes(with_docs=not services.settings.disable_fastapi_docs))
    error_responses.install(app)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, services=services)
    app.add_middleware(Guard, services=services)
    app.add_middleware(AccessLog, services=services)
    if services.settings.allowed_origins:
        app.add_middleware(CORSMiddleware, **_cross_origin(services.settings))
    _describe_bodies(app)
    return app


@cache
def _routes(*, with_docs: bool) -> list[BaseRoute]:
    """FastAPI reads every route's signature for each application that includes it; a process does so once."""
    reader = FastAPI(openapi_url=None, generate_unique_id_function=operation_id)
    inference = (chat, completions, response_calls, messages, embeddings, scores, reranking, models, tokenization)
    gateway = (*inference, files, batch_calls, lora_calls)
    pages = (docs_page,) if with_docs else ()
    for router in (*(module.router for module in (*gateway, health, *pages)), registry_router, ui_router):
        reader.include_router(router)
    return reader.router.routes


def _cross_origin(settings: Settings) -> dict[str, Any]:
    """Pages of these origins may call with a key of their own; cookies of the admin UI are never sent for them."""
    return {
        "allow_origins": settings.allowed_origins,
        "allow_methods": ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"),
        "allow_headers": ("*",),
        "expose_headers": ("*",),
        "allow_credentials": False,
    }


def _describe_bodies(app: FastAPI) -> None:
    """FastAPI does not know the msgspec types that routes read and answer."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = described(describe())
        document["components"]["schemas"].update(component_schemas())
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _version() -> str:
    try:
        return version("multiflora")
    except PackageNotFoundError:
        return "0"
