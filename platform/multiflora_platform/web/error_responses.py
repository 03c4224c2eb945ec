"""Any exception to a response, by its request: problem+json under /api, Anthropic's envelope for its clients, OpenAI's
elsewhere."""

from __future__ import annotations

import logging

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from multiflora_platform.web import anthropic_errors, problem_documents
from multiflora_platform.web.foreign_routes import no_route
from multiflora_platform.web.openai_errors import (
    ApiError,
    ClientGone,
    from_status,
    internal_error,
    invalid,
    rate_limited,
)
from multiflora_platform.web.problems import Problem
from multiflora_platform.web.refusals import AuthError, LimitReached, RefusalCause

_log = logging.getLogger(__name__)
_CLIENT_GONE = 499  # nginx's; only the access log sees it
# A tenant cannot tell a model that it may not use from one that there is not; here as elsewhere.
_REFUSALS: dict[str, RefusalCause] = {
    "forbidden": "not_allowed",
    "model_not_found": "not_allowed",
    "server_overloaded": "overloaded",
}
_NO_ROUTE = "Not Found"  # the framework's words when no route matches


def render_error(scope: Scope, error: Exception) -> Response:
    """The response for any exception that a route or a guard raises for the HTTP request of this scope."""
    path: str = scope["path"]
    if isinstance(error, ClientGone):
        return Response(status_code=_CLIENT_GONE)
    if isinstance(error, HTTPException) and error.detail == _NO_ROUTE:
        error = HTTPException(404, no_route(path))
    if path.startswith("/api"):
        return _problem(error)
    if anthropic_errors.speaks_anthropic(scope):
        return anthropic_errors.render(_api_error(error), scope.get("state", {}).get("request_id"))
    return _api_error(error).response()


def note_code(scope: Scope, error: Exception) -> None:
    """The error's code beside the request, for the lists of requests, and why the request was refused, if it was, for
    its tenant's counts."""
    if isinstance(error, (ApiError, AuthError)):
        code = error.code
    else:
        known = (Problem, LimitReached, RequestValidationError, HTTPException)
        code = _api_error(error).code if isinstance(error, known) else internal_error().code
    reached = error.reached if isinstance(error, (ApiError, LimitReached)) else None
    scope.setdefault("state", {}).update(error_code=code, refusal=reached or _REFUSALS.get(code))


def install(app: FastAPI) -> None:
    """Every foreseen exception of a route ends in `render_error`; the others do so in the outermost middleware."""

    async def handle(request: Request, error: Exception) -> Response:
        note_code(request.scope, error)
        return render_error(request.scope, error)

    for kind in (ApiError, Problem, AuthError, LimitReached, RequestValidationError, HTTPException, ClientGone):
        app.add_exception_handler(kind, handle)


def _api_error(error: Exception) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, AuthError):
        return ApiError(error.status, error.code, error.detail)
    if isinstance(error, LimitReached):
        return rate_limited(error)
    if isinstance(error, Problem):
        return from_status(error.status, error.detail)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        name = str(first["loc"][-1])
        return invalid(name, f"{name}: {first['msg']}.")
    if isinstance(error, HTTPException):
        return from_status(error.status_code, str(error.detail), error.headers)
    _log.error("A request failed", exc_info=error)
    return internal_error()


def _problem(error: Exception) -> Response:
    if isinstance(error, Problem):
        return problem_documents.render(error)
    if isinstance(error, AuthError):
        return problem_documents.render_auth(error)
    if isinstance(error, LimitReached):
        return problem_documents.render_limit(error)
    if isinstance(error, RequestValidationError):
        return problem_documents.render(problem_documents.from_validation(error))
    if isinstance(error, HTTPException):
        return problem_documents.from_http(error)
    if not isinstance(error, ApiError):
        _log.error("A request failed", exc_info=error)
        error = internal_error()
    headers = {"Retry-After": "1"} if error.status == 503 else None
    slug = error.code.replace("_", "-")
    return problem_documents.problem(
        error.status, slug, error.message.split(";")[0].rstrip("."), error.message, headers=headers
    )
