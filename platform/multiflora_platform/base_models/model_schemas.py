"""The bodies and answers of /api/v1/models, and `models:` of the configuration file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from multiflora_platform.web.json_bodies import Body

ModelState = Literal["loading", "ready", "idle", "draining", "failed"]
Replicas = Annotated[int, msgspec.Meta(ge=0, le=64)]


class NewModel(Body, frozen=True):
    """A base model to be served beside the others.

    source: a hub id, or a folder of the server's machine. options: settings of `serve` for this model alone, by their
    keys. min_replicas: engines that stay while no request comes; 0: the first request starts one and waits for it.
    max_replicas: engines while requests come. idle_seconds: without a request until those beyond min_replicas end;
    null: they stay.
    """

    name: str
    source: str
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    min_replicas: Replicas = 1
    max_replicas: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    idle_seconds: Annotated[float, msgspec.Meta(gt=0)] | None = None


class ModelReplica(msgspec.Struct, frozen=True):
    id: str
    state: str


class ModelJob(msgspec.Struct, frozen=True):
    """Loading a model. state: running, done or failed; error: why it failed, and the next step."""

    id: str
    state: Literal["running", "done", "failed"]
    error: str | None = None


class LoadedModel(msgspec.Struct, frozen=True):
    """A base model as it is served. digest: of its files; adapters belong to it by this. None while it is read.

    state: idle while no engine runs, and a request would start one; failed: `job` says why. is_default: the one that
    the server was started with. in_flight: requests that it is answering. memory_bytes: of weights and KV blocks, of
    all engines that run. max_model_len: tokens of a prompt and its answer together, at most; null while it is read.
    """

    name: str
    source: str
    state: ModelState
    is_default: bool
    digest: str | None
    options: dict[str, Any]
    min_replicas: int
    max_replicas: int
    idle_seconds: float | None
    replicas: list[ModelReplica]
    adapters: int
    in_flight: int
    memory_bytes: int
    max_model_len: int | None
    job: ModelJob | None = None


class ModelPage(msgspec.Struct, frozen=True):
    items: list[LoadedModel]
    next_page_token: str | None = None
