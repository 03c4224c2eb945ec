"""What is wrong with a request under /api, each kind with its HTTP status and a stable slug; each package adds its own.

Knows no rendering: problem_documents.py writes them under /api, openai_errors.py those that reach /v1.

    Problem 500
    ├── InvalidRequest 400          ├── DatabaseOutdated 500
    ├── PreconditionFailed 412      ├── DatabaseUnusable 500
    ├── PayloadTooLarge 413         ├── Unavailable 503
    ├── UnsupportedMedia 415        └── InsufficientStorage 507
    ├── PreconditionRequired 428
    └── and in their packages: registry/errors.py, auth/account_problems.py, webhooks/webhook_problems.py, ...
"""

from __future__ import annotations

from typing import Any, ClassVar


class Problem(Exception):
    """One RFC 9457 problem. The subclass is its kind; the detail tells this one case."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, pointer: str | None = None) -> None:
        """detail: the cause and the next step. pointer: RFC 6901 into the JSON body, or a header's name."""
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer

    @property
    def extra(self) -> dict[str, Any]:
        """Further members of the problem document."""
        return {}


class InvalidRequest(Problem):
    status, slug, title = 400, "invalid-request", "The request is not valid"


class PreconditionFailed(Problem):
    status, slug, title = 412, "precondition-failed", "It was changed by someone else"


class PayloadTooLarge(Problem):
    status, slug, title = 413, "payload-too-large", "The body is too large"


class UnsupportedMedia(Problem):
    status, slug, title = 415, "unsupported-media-type", "The content type is not supported"


class PreconditionRequired(Problem):
    status, slug, title = 428, "precondition-required", "An If-Match header is required"


class Unavailable(Problem):
    status, slug, title = 503, "unavailable", "Not available now"


class InsufficientStorage(Problem):
    status, slug, title = 507, "insufficient-storage", "The disk is full"


class DatabaseOutdated(Problem):
    """The database's schema is not this release's; the detail says what to run."""

    status, slug, title = 500, "database-outdated", "The database has another schema"


class DatabaseUnusable(Problem):
    """The database cannot be opened, or the file is not a database; the detail names it and the cause."""

    status, slug, title = 500, "database-unusable", "The database cannot be used"
