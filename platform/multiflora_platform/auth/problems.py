"""What can go wrong with keys and tenants under /api."""

from __future__ import annotations

from multiflora_platform.web.errors import RegistryError


class TenantNotFound(RegistryError):
    status, slug, title = 404, "tenant-not-found", "No such tenant"


class KeyNotFound(RegistryError):
    status, slug, title = 404, "key-not-found", "No such key"


class TenantExists(RegistryError):
    status, slug, title = 409, "tenant-exists", "The name is taken"
