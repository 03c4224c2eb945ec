"""What a client of /v1 is told when something is wrong: one exception, one envelope, stable string codes.

ApiError   400 invalid_value, invalid_grammar, unsupported_parameter, context_length_exceeded, adapter_rejected
           401 invalid_api_key   403 forbidden   404 model_not_found, not_found   413 request_too_large
           429 server_overloaded, rate_limit_exceeded, budget_exceeded   431 headers_too_large   500 internal_error
           503 engine_unavailable, engine_dead, adapter_unavailable, adapter_loading, kv_cache_pinned,
           limits_unavailable
           504 deadline_exceeded
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from starlette.responses import Response

from multiflora_engine.protocol.requests import EngineFailure
from multiflora_platform.web.problems import Unavailable
from multiflora_platform.web.refusals import Limit, LimitReached

RETRY_AFTER_SECONDS = 1
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_FAILURES = {
    "server_overloaded": 429,
    "deadline_exceeded": 504,
    "engine_unavailable": 503,
    "engine_dead": 503,
    "adapter_unavailable": 503,
    "adapter_loading": 503,
    "kv_cache_pinned": 503,
    "adapter_not_invoked": 400,
    "invalid_request": 400,
    "invalid_grammar": 400,
}


class ApiError(Exception):
    """One error of /v1, with the response that tells it."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        type: str | None = None,
        headers: Mapping[str, str] | None = None,
        reached: Limit | None = None,
    ) -> None:
        """code: stable, for programs. param: the request's parameter that is to blame.

        type: OpenAI's coarse kind, by default from the status. headers: beyond what the status asks for. reached: which
        of the tenant's limits.
        """
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = headers or {}
        self.reached = reached
        self.type = type or _TYPES.get(status) or ("server_error" if status >= 500 else "invalid_request_error")

    def envelope(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self, envelope: Mapping[str, Any] | None = None) -> Response:
        """envelope: another API's; None: OpenAI's."""
        headers = dict(self.headers)
        if self.status in (429, 503):
            headers.setdefault("Retry-After", str(RETRY_AFTER_SECONDS))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        content = self.envelope() if envelope is None else envelope
        return Response(msgspec.json.encode(content), self.status, headers, "application/json")


def invalid(param: str | None, message: str, code: str = "invalid_value") -> ApiError:
    return ApiError(400, code, message, param=param)


def unsupported(param: str, message: str) -> ApiError:
    return invalid(param, message, "unsupported_parameter")


def model_not_found(model: str, param: str = "model", reason: str | None = None) -> ApiError:
    """reason: what is missing, or what was meant, as far as who asks may know it."""
    shown = model if len(model) <= 100 else model[:100] + "…"
    stop = " " if reason is not None and reason.endswith("?") else "; "
    said = f"The model {shown!r} does not exist{f': {reason}' if reason else ''}"
    message = f"{said}{stop}GET /v1/models lists what is served."
    return ApiError(404, "model_not_found", message, param=param, type="invalid_request_error")


def unavailable(message: str, code: str = "engine_unavailable") -> ApiError:
    return ApiError(503, code, message)


def rate_limited(error: LimitReached) -> ApiError:
    headers = {"Retry-After": str(error.retry_after)}
    return ApiError(429, error.code, error.detail, headers=headers, reached=error.reached)


@contextmanager
def limits_told() -> Iterator[None]:
    """Raises ApiError where its block finds a tenant's limit reached, or cannot count it with the other servers."""
    try:
        yield
    except LimitReached as reached:
        raise rate_limited(reached) from None
    except Unavailable:
        message = "The database that counts the tenant's limits does not answer; try again."
        raise unavailable(message, "limits_unavailable") from None


def internal_error() -> ApiError:
    return ApiError(500, "internal_error", "Something failed inside the server; its log says what.")


def from_failure(failure: EngineFailure, names: Mapping[str, str]) -> ApiError:
    """names: what clients call the digests that the message may hold."""
    message = failure.message
    for digest, name in names.items():
        message = message.replace(digest, repr(name))
    return ApiError(_FAILURES.get(failure.code, 500), failure.code, message)


def from_status(status: int, message: str, headers: Mapping[str, str] | None = None) -> ApiError:
    """What the web framework refuses: no such route, a wrong method, a body over the limit."""
    codes = {
        401: "invalid_api_key",
        403: "forbidden",
        404: "not_found",
        405: "method_not_allowed",
        413: "request_too_large",
        431: "headers_too_large",
    }
    code = codes.get(status, "invalid_value" if status < 500 else "internal_error")
    return ApiError(status, code, message, headers=headers)


class ClientGone(Exception):
    """The client closed the connection; an answer would reach no reader."""
