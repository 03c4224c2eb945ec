"""Errors as clients of Anthropic's API read them: which requests are theirs, the envelope, its types by status."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Scope

from multiflora_platform.web.openai_errors import ApiError

MESSAGES = "/v1/messages"
_MODELS = "/v1/models"
# Anthropic's clients send it with every request; on paths that both APIs have, it tells them apart.
_VERSION = "anthropic-version"
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def speaks_anthropic(scope: Scope) -> bool:
    """Whether the answer to this HTTP request, an error too, is in Anthropic's form."""
    path: str = scope["path"]
    if path == MESSAGES or path.startswith(MESSAGES + "/"):
        return True
    return (path == _MODELS or path.startswith(_MODELS + "/")) and _VERSION in Headers(scope=scope)


def envelope(error: ApiError, request_id: str | None) -> dict[str, Any]:
    """request_id: of the HTTP request, None where it has none."""
    kind = _TYPES.get(error.status) or ("api_error" if error.status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": error.message}, "request_id": request_id}


def render(error: ApiError, request_id: str | None) -> Response:
    return error.response(envelope(error, request_id))
