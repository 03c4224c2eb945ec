"""Errors under /api as RFC 9457 problem documents, one function for each kind of exception. Does not know paths."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from multiflora_platform.web.problems import InvalidRequest, Problem
from multiflora_platform.web.refusals import AuthError, LimitReached

_TYPE = "urn:multiflora:problem:"


def problem(
    status: int, slug: str, title: str, detail: str, *, headers: dict[str, str] | None = None, **extra: Any
) -> JSONResponse:
    """slug: stable, the last part of `type`. extra: further members."""
    document = {"type": _TYPE + slug, "title": title, "status": status, "detail": detail, **extra}
    return JSONResponse(document, status, headers=headers, media_type="application/problem+json")


def render(error: Problem) -> JSONResponse:
    extra = error.extra
    if error.pointer is not None:
        extra["errors"] = [{"pointer": error.pointer, "detail": error.detail}]
    headers = {"Retry-After": "5"} if error.status == 503 else None
    return problem(error.status, error.slug, error.title, error.detail, headers=headers, **extra)


def render_auth(error: AuthError) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
    return problem(error.status, error.code.replace("_", "-"), error.title, error.detail, headers=headers)


def render_limit(reached: LimitReached) -> JSONResponse:
    headers = {"Retry-After": str(reached.retry_after)}
    return problem(429, reached.code.replace("_", "-"), reached.title, reached.detail, headers=headers)


def from_validation(error: RequestValidationError) -> InvalidRequest:
    """FastAPI's own complaint about a parameter: 400, naming it."""
    first = error.errors()[0]
    name = str(first["loc"][-1])
    return InvalidRequest(f"{name}: {first['msg']}.", pointer=name)


def from_http(error: HTTPException) -> JSONResponse:
    """No such route, a wrong method, and the like."""
    phrase = HTTPStatus(error.status_code).phrase
    headers = dict(error.headers) if error.headers else None
    return problem(error.status_code, phrase.lower().replace(" ", "-"), phrase, str(error.detail), headers=headers)
