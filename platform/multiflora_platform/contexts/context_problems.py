"""What can go wrong with contexts under /api.

Problem
├── ContextNotFound 404
└── ContextBudgetFull 409
"""

from __future__ import annotations

from multiflora_platform.web.problems import Problem


class ContextNotFound(Problem):
    status, slug, title = 404, "context-not-found", "No such context"


class ContextBudgetFull(Problem):
    status, slug, title = 409, "context-budget", "The budget of contexts is full"
