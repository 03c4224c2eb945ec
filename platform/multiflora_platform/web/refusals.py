"""Refusals that /v1 and /api share: no valid key, not allowed, over a limit. Each API renders them its own way."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

Limit = Literal["requests", "tokens", "concurrent", "budget"]
RefusalCause = Literal[Limit, "not_allowed", "overloaded"]


class AuthError(Exception):
    """The base of what a key is refused for."""

    status: ClassVar[int]
    code: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, detail: str) -> None:
        """detail: the cause and the next step; never the key."""
        super().__init__(detail)
        self.detail = detail


class Unauthenticated(AuthError):
    """No key, or one that is unknown or revoked. Answer with `WWW-Authenticate: Bearer`."""

    status, code, title = 401, "invalid_api_key", "A valid API key is required"

    def __init__(self, detail: str = "Send a valid key as `Authorization: Bearer mf-…` or `x-api-key: mf-…`.") -> None:
        super().__init__(detail)


class Forbidden(AuthError):
    """A valid key of a role or tenant that may not do this."""

    status, code, title = 403, "forbidden", "This key may not do that"


class LimitReached(Exception):
    """A tenant's limit of requests or tokens, by minute or at once."""

    code: ClassVar[str] = "rate_limit_exceeded"
    title: ClassVar[str] = "A limit of the tenant is reached"

    def __init__(self, reached: Limit, detail: str, retry_after: float) -> None:
        """detail: the limit in words, and what to do. retry_after: seconds, rounded up to whole ones."""
        super().__init__(detail)
        self.reached = reached
        self.detail = detail
        self.retry_after = max(1, math.ceil(retry_after))


class BudgetExceeded(LimitReached):
    """A tenant has used up what it may in a day or month."""

    code, title = "budget_exceeded", "A budget of the tenant is used up"
