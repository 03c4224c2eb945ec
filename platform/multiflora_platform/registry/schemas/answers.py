"""What the registry's routes answer, as types: described in the OpenAPI document, and what the client returns."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from multiflora_platform.registry.schemas.fields import Warmup

Severity = Literal["error", "warning", "info", "ok"]
VersionState = Literal["pending", "fetching", "validating", "ready", "rejected", "archived"]


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A newer server may answer with more fields; clients ignore them. etag: for If-Match and If-None-Match."""


class Adapter(View, frozen=True, kw_only=True):
    """aliases: {alias: {"version": 3} or {"split": {"3": 90, "4": 10}}}. owner: a tenant's name; null is the admins.

    digests: of the ready versions, by number. rank: their largest.
    """

    name: str
    description: str
    tags: list[str]
    demo_prompt: str | None  # the playground shows it
    warmup_prompts: list[Warmup]  # the server runs them before traffic moves to a version
    owner: str | None
    aliases: dict[str, dict[str, Any]]
    ready_versions: list[int]  # those that an alias may point to on this base model
    digests: dict[str, str]
    rank: int | None
    created_at: str
    updated_at: str
    etag: str


class AdapterPage(View, frozen=True, kw_only=True):
    items: list[Adapter]
    next_page_token: str | None


class Alias(View, frozen=True, kw_only=True):
    """Exactly one of version and split is there. rollback_to: the last settled target, in the form {"version": 3} or
    {"split": {"3": 90, "4": 10}}; the present one when the alias was rolled back to it; null before the first move."""

    adapter: str
    alias: str
    version: int | msgspec.UnsetType = msgspec.UNSET
    split: dict[str, int] | msgspec.UnsetType = msgspec.UNSET
    rollback_to: dict[str, Any] | None
    protected: bool
    etag: str


class AliasPage(View, frozen=True, kw_only=True):
    items: list[Alias]
    next_page_token: str | None


class AliasMoveView(View, frozen=True, kw_only=True):
    """target: {"version": 3} or {"split": {"3": 90, "4": 10}}; null when the alias was deleted."""

    id: int
    target: dict[str, Any] | None
    actor: str
    at: str


class AliasHistory(View, frozen=True, kw_only=True):
    items: list[AliasMoveView]
    next_page_token: str | None


class JobProgress(View, frozen=True, kw_only=True):
    """total_bytes: null until it is known, and for files that came with the request."""

    done_bytes: int
    total_bytes: int | None


class Job(View, frozen=True, kw_only=True):
    """Making one version. error: of the last attempt. next_attempt_at: while it waits for another one."""

    id: str
    kind: Literal["import"]
    adapter: str
    version: int  # the number of the version that it makes
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    version_state: VersionState
    source: str
    progress: JobProgress  # written by the worker's heartbeats
    attempts: int  # begun so far
    next_attempt_at: str | None
    error: str | None
    created_by: str
    created_at: str
    updated_at: str
    etag: str


class JobPage(View, frozen=True, kw_only=True):
    items: list[Job]
    next_page_token: str | None


class Card(View, frozen=True, kw_only=True):
    """metadata: the front matter of README.md. html: sanitised."""

    adapter: str
    version: int
    metadata: dict[str, Any]
    markdown: str
    html: str
    etag: str


class FileView(View, frozen=True, kw_only=True):
    sha256: str
    size: int


class Version(View, frozen=True, kw_only=True):
    """digest, manifest, facts: null until known. evals: as asked for and, once they ran, with `answer`, `passed`.

    job: with 202 only, what is making it.
    """

    adapter: str
    version: int
    state: VersionState
    digest: str | None
    base_digest: str  # of the base model that it is validated against
    files: dict[str, FileView]  # by name; {} until it is ready
    manifest: dict[str, Any] | None  # AdapterManifest without its digest and files
    facts: dict[str, Any] | None  # AdapterFacts, by the validation
    source: str  # "upload" or an address, with the revision that the job pinned
    description: str
    tags: list[str]
    lineage: dict[str, Any]
    evals: list[dict[str, Any]]
    metrics: dict[str, float]  # its trainer's own, by name
    has_card: bool
    created_by: str
    created_at: str
    updated_at: str
    deleted_at: str | None
    etag: str
    job: Job | msgspec.UnsetType = msgspec.UNSET


class VersionPage(View, frozen=True, kw_only=True):
    items: list[Version]
    next_page_token: str | None


class ReportRowView(View, frozen=True, kw_only=True):
    check: str
    severity: Severity
    message: str
    observed: str | None
    expected: str | None
    hint: str | None


class ValidationReport(View, frozen=True, kw_only=True):
    adapter: str
    version: int
    state: VersionState
    rows: list[ReportRowView]
    evals: list[dict[str, Any]]
    etag: str


class CommandDone(View, frozen=True, kw_only=True):
    adapter: str
    version: int
    digest: str
    action: Literal["load", "unload", "pin", "unpin"]


class ResidentAdapter(View, frozen=True, kw_only=True):
    digest: str
    residency: Literal["slot", "cpu", "disk"]  # the fastest memory that holds it
    pinned: bool  # by an admin: the engine does not evict it
    rank: int  # 0 until the engine has read it
    bytes: int  # of its tensors; 0 until the engine has read it
    running: int  # requests on it right now


class Replica(View, frozen=True, kw_only=True):
    """One engine. pid: null while there is no process. group: what it serves. epoch: which life of it this is; what it
    cached in an earlier one is lost."""

    id: str
    host: str
    group: str
    epoch: int
    pid: int | None
    state: str
    running: int  # sequences
    waiting: int  # sequences
    pending_prefill_tokens: int  # prompt tokens that are still to be computed
    free_blocks: int  # that can be allocated, evictable ones included
    adapters: list[ResidentAdapter]
    adapters_on_disk: int  # registered for its base model, in neither of its memories


class ReplicaPage(View, frozen=True, kw_only=True):
    items: list[Replica]
    next_page_token: str | None


class EventView(View, frozen=True, kw_only=True):
    id: int
    type: str
    adapter: str | None
    at: str
    payload: dict[str, Any]


class EventPage(View, frozen=True, kw_only=True):
    items: list[EventView]
    next_cursor: int


class AuditEntry(View, frozen=True, kw_only=True):
    id: int
    actor: str
    action: str
    target: str
    detail: dict[str, Any]
    at: str


class AuditPage(View, frozen=True, kw_only=True):
    items: list[AuditEntry]
    next_page_token: str | None
