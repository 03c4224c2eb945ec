"""What can go wrong in the registry, each with its HTTP status and a stable slug. Errors of requests in general are in
web/problems.py, those of keys and webhooks in their own folders.

    Problem
    ├── SourceIncomplete 400      ├── JobCancelled 409
    ├── SourceUnsupported 400     ├── JobEnded 409
    ├── AliasProtected 403        ├── NotDeleted 409
    ├── SourceRefused 403         ├── NothingToRollBack 409
    ├── AdapterNotFound 404       ├── EvalGate 409
    │                             ├── RolloutConflict 409
    ├── AliasNotFound 404         ├── VersionInUse 409
    ├── JobNotFound 404           ├── VersionNotReady 409
    ├── ReplicaNotFound 404       ├── IdempotencyMismatch 422
    ├── RolloutNotFound 404       │
    ├── SourceNotFound 404        ├── VersionRejected 422
    ├── VersionNotFound 404       ├── CommandFailed 502
    │                             │   └── NoRoom 409
    └── AdapterExists 409         └── SourceUnreachable 502
"""

from __future__ import annotations

from typing import Any

from multiflora_platform.web.problems import Problem


class SourceIncomplete(Problem):
    status, slug, title = 400, "incomplete-upload", "The upload is not an adapter"


class SourceRefused(Problem):
    status, slug, title = 403, "source-refused", "The source is not allowed"


class SourceNotFound(Problem):
    status, slug, title = 404, "source-not-found", "The source does not exist"


class SourceUnsupported(Problem):
    status, slug, title = 400, "source-not-supported", "The source is not supported yet"


class SourceUnreachable(Problem):
    status, slug, title = 502, "source-unreachable", "The source cannot be fetched"


class AdapterNotFound(Problem):
    status, slug, title = 404, "adapter-not-found", "No such adapter"


class VersionNotFound(Problem):
    status, slug, title = 404, "version-not-found", "No such version"


class ReplicaNotFound(Problem):
    status, slug, title = 404, "replica-not-found", "No such replica"


class AliasNotFound(Problem):
    status, slug, title = 404, "alias-not-found", "No such alias"


class AliasProtected(Problem):
    status, slug, title = 403, "alias-protected", "The alias is protected"


class RolloutNotFound(Problem):
    status, slug, title = 404, "rollout-not-found", "No such rollout"


class RolloutConflict(Problem):
    status, slug, title = 409, "rollout-conflict", "The alias is not free for this rollout"


class JobNotFound(Problem):
    status, slug, title = 404, "job-not-found", "No such job"


class AdapterExists(Problem):
    status, slug, title = 409, "adapter-exists", "The name is taken"


class VersionNotReady(Problem):
    status, slug, title = 409, "version-not-ready", "The version cannot be served"


class VersionInUse(Problem):
    status, slug, title = 409, "version-in-use", "An alias points to the version"


class NotDeleted(Problem):
    status, slug, title = 409, "not-deleted", "Only a deleted version can be restored or purged"


class JobEnded(Problem):
    status, slug, title = 409, "job-ended", "The job has ended"


class JobCancelled(Problem):
    status, slug, title = 409, "job-cancelled", "The job was cancelled"


class NothingToRollBack(Problem):
    status, slug, title = 409, "nothing-to-roll-back", "The alias has no earlier target"


class VersionRejected(Problem):
    """rows: the validation report's rows. version: the number under which the rejected version stays."""

    status, slug, title = 422, "version-rejected", "The adapter was rejected"

    def __init__(self, detail: str, rows: list[dict[str, Any]], adapter: str, version: int) -> None:
        super().__init__(detail)
        self.rows = rows
        self.adapter = adapter
        self.version = version

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The rows for which it was rejected."""
        return [row for row in self.rows if row.get("severity") == "error"]

    @property
    def extra(self) -> dict[str, Any]:
        return {"adapter": self.adapter, "version": self.version, "state": "rejected", "rows": self.rows}


class EvalGate(Problem):
    """score, run: of the newest completed run; None: there is none."""

    status, slug, title = 409, "eval-gate", "An eval has not been passed"

    def __init__(
        self, detail: str, name: str, eval_version: int, score: float | None, min_score: float, run: int | None
    ) -> None:
        super().__init__(detail)
        self.name, self.eval_version, self.run = name, eval_version, run
        self.score, self.min_score = score, min_score

    @property
    def extra(self) -> dict[str, Any]:
        told = {"eval": self.name, "eval_version": self.eval_version, "run": self.run}
        return {**told, "score": self.score, "min_score": self.min_score}


class IdempotencyMismatch(Problem):
    status, slug, title = 422, "idempotency-mismatch", "The Idempotency-Key was used for another request"


class CommandFailed(Problem):
    status, slug, title = 502, "engine-refused", "The engine could not do it"


class NoRoom(CommandFailed):
    status, slug, title = 409, "adapters-do-not-fit", "Pinned adapters leave too little room"
