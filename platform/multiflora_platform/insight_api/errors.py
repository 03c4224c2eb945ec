"""What insight's routes refuse, beside what the registry's do."""

from __future__ import annotations

from multiflora_platform.web.errors import RegistryError


class NotCached(RegistryError):
    status, slug, title = 404, "not-cached", "The cache has no such prefix, or no room for the pin"


class RequestForgotten(RegistryError):
    status, slug, title = 404, "request-not-found", "The request is not known, or not any more"
