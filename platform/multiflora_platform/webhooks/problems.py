"""What can go wrong with webhooks under /api."""

from __future__ import annotations

from multiflora_platform.web.errors import RegistryError


class WebhookNotFound(RegistryError):
    status, slug, title = 404, "webhook-not-found", "No such webhook"


class TargetRefused(RegistryError):
    status, slug, title = 403, "target-refused", "The webhook's address is not allowed"
