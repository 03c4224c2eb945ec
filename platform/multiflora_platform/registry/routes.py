"""The router of /api/v1: everything of the registry and of tenants and keys. Each route names its policy."""

from __future__ import annotations

from fastapi import APIRouter

from multiflora_platform.auth import routes as auth_routes
from multiflora_platform.auth import usage_routes
from multiflora_platform.insight import cache_routes
from multiflora_platform.insight import routes as insight_routes
from multiflora_platform.registry import (
    adapter_routes,
    alias_routes,
    job_routes,
    operations_routes,
    rollout_routes,
    version_routes,
)
from multiflora_platform.webhooks import routes as webhook_routes

router = APIRouter(prefix="/api/v1")
PARTS = (
    adapter_routes,
    version_routes,
    alias_routes,
    rollout_routes,
    job_routes,
    operations_routes,
    auth_routes,
    usage_routes,
    webhook_routes,
    insight_routes,
    cache_routes,
)
for part in PARTS:
    router.include_router(part.router)
