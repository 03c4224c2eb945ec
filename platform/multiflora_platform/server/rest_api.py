"""The router of /api/v1: everything of the registry and of tenants and keys. Each route names its policy."""

from __future__ import annotations

from fastapi import APIRouter

from multiflora_platform.auth import routes as auth_routes
from multiflora_platform.auth import usage_routes
from multiflora_platform.base_models import routes as model_routes
from multiflora_platform.evals import routes as eval_routes
from multiflora_platform.insight_api import (
    activity_routes,
    cache_event_routes,
    cache_routes,
    context_routes,
    drift_routes,
    explain_routes,
    live_routes,
    profile_routes,
    request_routes,
)
from multiflora_platform.insight_api import routes as insight_routes
from multiflora_platform.registry.routes import adapters as adapter_routes
from multiflora_platform.registry.routes import aliases as alias_routes
from multiflora_platform.registry.routes import jobs as job_routes
from multiflora_platform.registry.routes import operations as operations_routes
from multiflora_platform.registry.routes import rollouts as rollout_routes
from multiflora_platform.registry.routes import versions as version_routes
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
    model_routes,
    insight_routes,
    live_routes,
    request_routes,
    activity_routes,
    cache_routes,
    cache_event_routes,
    explain_routes,
    drift_routes,
    context_routes,
    eval_routes,
    profile_routes,
)
for part in PARTS:
    router.include_router(part.router)
