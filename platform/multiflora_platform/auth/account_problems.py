"""What can go wrong with keys and tenants under /api; that a key may not do something is web/refusals.py's.

Problem
├── KeyNotFound 404
├── TenantNotFound 404
└── TenantExists 409
"""

from __future__ import annotations

from multiflora_platform.web.problems import Problem


class TenantNotFound(Problem):
    status, slug, title = 404, "tenant-not-found", "No such tenant"


class KeyNotFound(Problem):
    status, slug, title = 404, "key-not-found", "No such key"


class TenantExists(Problem):
    status, slug, title = 409, "tenant-exists", "The name is taken"
