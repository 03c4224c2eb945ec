"""The OpenAPI document of /api/v1: types of bodies and answers, errors as they are, short names of operations."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from multiflora_platform.web.json_bodies import body_schemas
from multiflora_platform.web.resources import answer_schemas

PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
_REFUSED = {
    "description": "RFC 9457",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


_IF_NONE_MATCH = {
    "name": "if-none-match",
    "in": "header",
    "required": False,
    "schema": {"anyOf": [{"type": "string"}, {"type": "null"}], "title": "If-None-Match"},
}

_TIMEOUT = {
    "name": "x-request-timeout",
    "in": "header",
    "required": False,
    "description": "seconds after which the answer is of no use: 504, and the engine stops",
    "schema": {"anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 86400}, {"type": "null"}]},
}
_COMPUTING = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/embeddings",
    "/v1/score",
    "/v1/rerank",
)


def operation_id(route: APIRoute) -> str:
    """The function's name, which is the client's method's, too."""
    return route.name


def describe(document: dict[str, Any]) -> dict[str, Any]:
    """Completes what FastAPI has found out by itself; in place."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update({**body_schemas(), **answer_schemas(), "Problem": PROBLEM})
    for path, methods in document["paths"].items():
        for operation in methods.values():
            operation["responses"].pop("422", None)
            if path.startswith("/api/"):
                operation["responses"]["default"] = _REFUSED
        if path in _COMPUTING:
            methods["post"].setdefault("parameters", []).append(_TIMEOUT)
        _describe_caching(methods.get("get", {"responses": {}}))
    return document


def _describe_caching(reading: dict[str, Any]) -> None:
    """A GET of what has an ETag answers 304 to whom has it already (answers.resource)."""
    if "headers" in reading["responses"].get("200", {}):
        reading.setdefault("parameters", []).append(_IF_NONE_MATCH)
        reading["responses"]["304"] = {"description": "Not modified"}


def api_document() -> dict[str, Any]:
    """Of the registry and administration alone."""
    from multiflora_platform.server.rest_api import router

    app = FastAPI(generate_unique_id_function=operation_id)
    app.include_router(router)
    return describe(app.openapi())
