"""What can go wrong with webhooks under /api.

Problem
├── TargetRefused 403
└── WebhookNotFound 404
"""

from __future__ import annotations

from multiflora_platform.web.problems import Problem


class WebhookNotFound(Problem):
    status, slug, title = 404, "webhook-not-found", "No such webhook"


class TargetRefused(Problem):
    status, slug, title = 403, "target-refused", "The webhook's address is not allowed"
