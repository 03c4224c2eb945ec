"""The base models beside the default one: loaded, listed, unloaded. One task loads each, one tends them all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from multiflora_engine.process.supervisor import EngineFailed
from multiflora_platform.base_models.far_life import FarLife
from multiflora_platform.base_models.group_life import GroupLife
from multiflora_platform.base_models.group_making import make_group
from multiflora_platform.base_models.kept_models import KeptModels
from multiflora_platform.base_models.model import Model, view_of
from multiflora_platform.base_models.model_memory import require_memory
from multiflora_platform.base_models.model_problems import (
    ModelExists,
    ModelNotFound,
    ModelSourceRefused,
    ModelStays,
)
from multiflora_platform.base_models.model_schemas import LoadedModel, ModelState, NewModel
from multiflora_platform.base_models.model_settings import asked_models, settings_of
from multiflora_platform.base_models.opening import open_model, warn_of_template
from multiflora_platform.fleet.hosts.far_fleet import FarFleet
from multiflora_platform.groups import Group
from multiflora_platform.settings import ConfigurationError
from multiflora_platform.storage.tables import EventRow
from multiflora_platform.web.names import check_name
from multiflora_platform.web.openai_errors import ApiError, unavailable
from multiflora_platform.web.problems import InvalidRequest, Problem

if TYPE_CHECKING:
    from multiflora_platform.services import Services

_log = logging.getLogger(__name__)
_TICK = 1.0


class BaseModels:
    """`start` it once the default base model serves; `close` ends the engines of all others."""

    def __init__(self, services: Services, kept: KeptModels) -> None:
        self._services = services
        self._kept = kept
        self._models: dict[str, Model] = {}
        self._tending: asyncio.Task[None] | None = None
        # Of a gateway, whether others have added or unloaded models since the last look.
        self._is_behind = False

    async def start(self) -> None:
        """Those of the configuration file, of which each serves then, or is idle; and those that requests added to an
        earlier server, as far as they can be read. Raises ConfigurationError, of the file's alone."""
        if self._elsewhere:
            self._services.registry.follower.subscribe(self._note_others)
        self._tending = asyncio.create_task(self._tend())
        for model in asked_models(self._services.settings, elsewhere=self._elsewhere):
            try:
                await self.add(model, "system", in_file=True)
                await self._loaded(model.name)
            except Problem as problem:
                raise ConfigurationError(f"models: {model.name}: {problem.detail}") from None
            if (error := self._models[model.name].error) is not None:
                raise ConfigurationError(f"models: {model.name}: {error}")
        for model in await self._kept.all():
            await self._restore(model)

    @property
    def _elsewhere(self) -> bool:
        """Engines are started on other hosts."""
        return self._services.lines is not None

    async def close(self) -> None:
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
        await asyncio.gather(*(self._end(model) for model in self._models.values()))

    async def add(self, asked: NewModel, actor: str, *, in_file: bool = False) -> LoadedModel:
        """Files of a folder are read at once, those of a hub id are fetched by the job; then its engines are started,
        unless min_replicas is 0. Raises InvalidRequest, ModelExists, ModelSourceRefused, NotEnoughMemory,
        AdapterExists."""
        self._require_free(check_name(asked.name))
        settings_of(asked, self._services.settings, in_file=in_file, elsewhere=self._elsewhere)
        # From now on the name is taken: of two equal requests one is refused.
        model = self._models[asked.name] = Model(asked, in_file)
        try:
            if _folder_of(asked.source) is not None:
                await self._open(model)
            if in_file:
                await self._services.registry.note(actor, "model.loading", asked.name)
            else:
                await self._kept.keep(asked, actor)
        except BaseException:
            await self._forget(model)
            self._models.pop(asked.name, None)
            raise
        model.loading = asyncio.create_task(self._load(model))
        return self._view(model)

    async def remove(self, name: str, actor: str) -> None:
        """No new request finds it; running ones have the server's drain_timeout to end, the rest end with
        "model_unloaded". Its adapters stay registered. Raises ModelNotFound, ModelStays."""
        if name in self._services.groups.default.model.names:
            raise ModelStays(f"{name!r} is what the server was started with; it is served until the server ends.")
        model = self._models.get(name)
        if model is None or model.draining:
            raise ModelNotFound(name)
        model.draining = True
        # A client that goes away does not leave it half unloaded.
        await asyncio.shield(asyncio.create_task(self._unload(model, actor)))

    def views(self) -> list[LoadedModel]:
        """The default one first, then in the order in which they came."""
        return [self._default_view(), *map(self._view, self._models.values())]

    def view(self, name: str) -> LoadedModel:
        """Raises ModelNotFound."""
        if name in self._services.groups.default.model.names:
            return self._default_view()
        if name not in self._models:
            raise ModelNotFound(name)
        return self._view(self._models[name])

    # ---- loading

    def _require_free(self, name: str) -> None:
        known = self._models.get(name)
        if known is not None and known.job_state == "failed" and not known.draining:
            del self._models[name]
        if name in self._models or name in self._services.groups.names:
            raise ModelExists(f"There is a base model named {name!r}; unload it first, or choose another name.")
        self._services.registry.require_free([name])

    async def _restore(self, asked: NewModel) -> None:
        """Requests wait for it once its files were read; where they cannot be, its job says why."""
        if asked.name in self._models or asked.name in self._services.groups.names:
            _log.warning("The base model %s is not loaded again: the name is this server's own model's", asked.name)
            return
        model = self._models[asked.name] = Model(asked)
        try:
            if _folder_of(asked.source) is not None:
                await self._open(model)
        except Exception as error:
            _log.warning("The base model %s could not be opened again; its job tries once more: %s", asked.name, error)
        model.loading = asyncio.create_task(self._load(model))

    def _require_readable(self, folder: Path) -> None:
        """A server that other machines reach reads no folder that its operator has not named."""
        settings = self._services.settings
        roots = [root.expanduser().resolve() for root in settings.allow_source_root]
        inside = any(folder.is_relative_to(root) for root in roots)
        if not inside and not settings.is_local:
            raise ModelSourceRefused(
                "The folder lies below no --allow-source-root; start the server with one, or give a hub id.",
                pointer="/source",
            )

    async def _open(self, model: Model) -> None:
        """Reads its files and makes its group known. Raises InvalidRequest, ModelExists, ModelSourceRefused,
        NotEnoughMemory."""
        asked, services = model.asked, self._services
        settings = settings_of(asked, services.settings, in_file=model.in_file, elsewhere=self._elsewhere)
        folder = _folder_of(asked.source)
        if folder is not None and not model.in_file:
            self._require_readable(folder)
        try:
            opened = await asyncio.to_thread(open_model, settings)
            same = services.groups.of_base(opened.base.digest)
            if same is not None:
                raise ModelExists(f"{same.name!r} is the same base model: its files are equal.", pointer="/source")
            if not self._elsewhere:
                require_memory(opened.served.name, opened.config.folder, opened.config.dtype, settings)
            group, fleet, link = make_group(services, settings, opened)
        except ConfigurationError as error:
            raise InvalidRequest(str(error), pointer="/source") from None
        except ValueError as error:
            raise InvalidRequest(str(error), pointer="/max_replicas") from None
        await services.registry.add_base(link, group.model.names)
        model.group = group
        fleet.on_removed = lambda replica: services.insight.cache_feeds.forget([replica])
        if services.lines is None:
            model.life = group.waker = GroupLife(group, fleet, asked.min_replicas, asked.idle_seconds)
        else:
            model.life = FarLife(FarFleet(fleet, settings.group or group.name, group.base_digest, services.lines))
        services.groups.add(group)

    async def _load(self, model: Model) -> None:
        """The job: never raises."""
        try:
            if model.group is None:
                await self._open(model)
            assert model.group is not None, "an opened model has its group"
            assert model.life is not None, "and its engines"
            await asyncio.to_thread(warn_of_template, model.group.model)
            if model.asked.min_replicas:
                await model.life.wake()
            model.job_state = "done"
        except (Problem, EngineFailed) as error:
            model.error = error.detail if isinstance(error, Problem) else error.message
        except Exception as error:
            _log.exception("the base model %s could not be loaded", model.asked.name)
            model.error = f"{type(error).__name__}: {error}"
        try:
            if model.error is None:
                await self._services.registry.note("system", "model.loaded", model.asked.name)
            else:
                model.job_state = "failed"
                await self._forget(model)
        except Exception as error:
            _log.warning("what became of the base model %s is not told to all: %s", model.asked.name, error)

    async def _loaded(self, name: str) -> None:
        loading = self._models[name].loading
        assert loading is not None, "it was added"
        await loading

    # ---- unloading

    async def _unload(self, model: Model, actor: str) -> None:
        try:
            await self._kept.forget(model.asked.name, actor)
        except BaseException:
            model.draining = False
            raise
        await self._take_away(model)
        await self._services.registry.note(actor, "model.unloaded", model.asked.name)

    async def _take_away(self, model: Model) -> None:
        """What it is answering has the server's drain_timeout to end."""
        if model.group is not None:
            self._services.groups.remove(model.group)
            if not model.group.asleep:  # else requests wait for engines that will not start
                await model.group.run_out(self._services.settings.drain_timeout, lambda: _unloaded(model.asked.name))
        await self._end(model)
        await self._forget(model)
        self._models.pop(model.asked.name, None)

    async def _end(self, model: Model) -> None:
        if model.loading is not None and not model.loading.done():
            model.loading.cancel()
            await asyncio.gather(model.loading, return_exceptions=True)
        if model.life is not None:
            await model.life.end()
        if model.group is not None:
            await model.group.grammars.close()

    async def _forget(self, model: Model) -> None:
        """No request finds it, and its names are free; adapters of it stay registered."""
        if model.group is None:
            return
        group, life = model.group, model.life
        model.group = model.life = None
        self._services.groups.remove(group)
        if life is not None:
            await life.end()
        self._services.insight.cache_feeds.forget(group.engine.replicas)
        await self._services.registry.remove_base(group.base_digest, group.model.names)

    # ---- what is there

    async def _note_others(self, events: Sequence[EventRow]) -> None:
        self._is_behind = self._is_behind or any(event.type.startswith("model.") for event in events)

    async def _follow_others(self) -> None:
        """Gateways of one database serve the same models: here, too, what another one was asked to add or unload."""
        self._is_behind = False
        kept = {asked.name: asked for asked in await self._kept.all()}
        for model in list(self._models.values()):
            is_asked_for = model.in_file or model.loading is None or kept.get(model.asked.name) == model.asked
            if not (is_asked_for or model.draining):
                model.draining = True
                await self._take_away(model)
        for asked in kept.values():
            if asked.name not in self._models:
                await self._restore(asked)

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(_TICK)
            if self._is_behind:
                try:
                    await self._follow_others()
                except Exception as error:
                    self._is_behind = True
                    _log.warning("what other gateways serve could not be followed; trying again: %s", error)
            for model in list(self._models.values()):
                if model.life is not None and not model.draining and model.job_state == "done":
                    with contextlib.suppress(Exception):
                        await model.life.tend()

    def _default_view(self) -> LoadedModel:
        services = self._services
        group = services.groups.default
        replicas = max(1, len(group.engine.replicas))
        asked = NewModel(group.name, group.model.root, {}, replicas, replicas)
        state: ModelState = "ready" if services.is_ready else "failed" if group.engine.state == "failed" else "loading"
        return view_of(group, asked, state, self._num_adapters(group), is_default=True)

    def _view(self, model: Model) -> LoadedModel:
        return model.view(self._num_adapters(model.group))

    def _num_adapters(self, group: Group | None) -> int:
        if group is None:
            return 0
        return sum(
            group.base_digest in entry.bases.values() for entry in self._services.registry.snapshot.adapters.values()
        )


def _folder_of(source: str) -> Path | None:
    """Of this machine, whether it is there or not; None: the source is a hub id. Raises InvalidRequest."""
    try:
        path = Path(source).expanduser()
        is_path = path.exists() or source.startswith(("/", "./", "../", "~"))
        return path.resolve() if is_path else None
    except (OSError, RuntimeError, ValueError) as error:  # no such user, too long, links in a circle
        raise InvalidRequest(f"{source[:80]!r} cannot be a folder: {error}", pointer="/source") from None


def _unloaded(name: str) -> ApiError:
    return unavailable(f"The base model {name!r} was unloaded before the answer was complete.", "model_unloaded")
