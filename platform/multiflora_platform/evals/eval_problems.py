"""What can go wrong with evals, each with its HTTP status and a stable slug; `EvalGate` is the registry's.

Problem
├── EvalNotFound 404
├── EvalRunNotFound 404
├── EvalRunEnded 409
└── EvalQueueFull 409
"""

from __future__ import annotations

from multiflora_platform.web.problems import Problem


class EvalNotFound(Problem):
    status, slug, title = 404, "eval-not-found", "No such eval"


class EvalRunNotFound(Problem):
    status, slug, title = 404, "eval-run-not-found", "No such run of an eval"


class EvalRunEnded(Problem):
    status, slug, title = 409, "eval-run-ended", "The run has ended"


class EvalQueueFull(Problem):
    status, slug, title = 409, "eval-queue-full", "Too many runs are waiting"
