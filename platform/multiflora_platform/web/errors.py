"""."""

from __future__ import annotations

from typing import Any, ClassVar


class RegistryError(Exception):
    """detail: the cause and the next step. pointer: RFC 6901 into the JSON body (or a header's or parameter's name)."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer

    @property
    def extra(self) -> dict[str, Any]:
        """Further members of the problem document."""
        return {}


class InvalidRequest(RegistryError):
    status, slug, title = 400, "invalid-request", "The request is not valid"


class PreconditionFailed(RegistryError):
    status, slug, title = 412, "precondition-failed", "It was changed by someone else"


class PayloadTooLarge(RegistryError):
    status, slug, title = 413, "payload-too-large", "The body is too large"


class UnsupportedMedia(RegistryError):
    status, slug, title = 415, "unsupported-media-type", "The content type is not supported"


class PreconditionRequired(RegistryError):
    status, slug, title = 428, "precondition-required", "An If-Match header is required"


class Unavailable(RegistryError):
    status, slug, title = 503, "unavailable", "Not available now"


class InsufficientStorage(RegistryError):
    status, slug, title = 507, "insufficient-storage", "The disk is full"


class DatabaseOutdated(RegistryError):
    """The database's schema is not this release's; the detail says what to run."""

    status, slug, title = 500, "database-outdated", "The database has another schema"


class DatabaseUnusable(RegistryError):
    """The database cannot be opened or is none; the detail names it and the cause."""

    status, slug, title = 500, "database-unusable", "The database cannot be used"
