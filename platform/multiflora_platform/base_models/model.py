"""One base model beside the default one, while it is loaded, served and unloaded; and how that is shown."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import Literal, Protocol

from multiflora_platform.base_models.model_schemas import LoadedModel, ModelJob, ModelReplica, ModelState, NewModel
from multiflora_platform.groups import Group


class EnginesLife(Protocol):
    """Of a base model's engines, from the first that serves to the end of all.

    asleep: none of them runs, and a request would start one.
    """

    asleep: bool

    async def wake(self) -> None:
        """Raises EngineFailed when none ever will serve."""

    async def tend(self) -> None:
        """Called each second."""

    async def end(self) -> None:
        """For good."""


@dataclass(eq=False)
class Model:
    """One base model, from the request for it until it is unloaded. group, life: once its files were read. in_file:
    the configuration file names it, and not a request."""

    asked: NewModel
    in_file: bool = False
    job_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    job_state: Literal["running", "done", "failed"] = "running"
    error: str | None = None
    group: Group | None = None
    life: EnginesLife | None = None
    loading: asyncio.Task[None] | None = None
    draining: bool = False

    @property
    def state(self) -> ModelState:
        if self.draining:
            return "draining"
        if self.job_state == "failed":
            return "failed"
        if self.group is None or self.life is None or self.job_state == "running":
            return "loading"
        if self.life.asleep:
            return "idle"
        return "ready" if self.group.engine.ready is not None else "loading"

    def view(self, adapters: int) -> LoadedModel:
        """adapters: how many belong to it."""
        job = ModelJob(self.job_id, self.job_state, self.error)
        return view_of(self.group, self.asked, self.state, adapters, job)


def view_of(
    group: Group | None,
    asked: NewModel,
    state: ModelState,
    adapters: int,
    job: ModelJob | None = None,
    *,
    is_default: bool = False,
) -> LoadedModel:
    replicas = [] if group is None else group.engine.replicas
    ready = [one.ready for one in replicas if one.ready is not None]
    return LoadedModel(
        name=asked.name,
        source=asked.source,
        state=state,
        is_default=is_default,
        digest=None if group is None else group.base_digest,
        options=asked.options,
        min_replicas=asked.min_replicas,
        max_replicas=asked.max_replicas,
        idle_seconds=asked.idle_seconds,
        replicas=[ModelReplica(one.id, one.state) for one in replicas],
        adapters=adapters,
        in_flight=0 if group is None else group.in_flight,
        memory_bytes=sum(one.weight_bytes + one.kv_bytes for one in ready),
        max_model_len=None if group is None else group.max_model_len,
        job=job,
    )
