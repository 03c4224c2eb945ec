"""One engine under its own supervisor, which gateways of other hosts find in the database.

`multiflora engine` runs it, and so do other launchers. Owns its start, its lease and its end. Knows no HTTP and no
registry.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import uvloop
from msgspec.structs import replace

from multiflora_engine.process.supervisor import EngineFailed, EngineSupervisor
from multiflora_engine.protocol.lines import Listen
from multiflora_engine.protocol.messages import PROTOCOL, LoadProgress
from multiflora_platform.auth.secret import Secret
from multiflora_platform.base_models.opening import ServedBase, engine_config, open_model, prepare_data_dir
from multiflora_platform.exit_codes import CommandError, ExitCode
from multiflora_platform.fleet.hosts.line_keys import LineKeys, line_keys
from multiflora_platform.fleet.hosts.replica_table import RENEWED_EVERY, Listing, forget_gone, tell, withdraw
from multiflora_platform.fleet.processes import silent
from multiflora_platform.server.beginnings import log_to_stderr, open_database, require_shared_database
from multiflora_platform.server.loading import LoadingDisplay
from multiflora_platform.settings import ConfigurationError, Settings
from multiflora_platform.storage.database import Database
from multiflora_platform.web.problems import Problem

_log = logging.getLogger(__name__)
_EVERYWHERE = frozenset({"0.0.0.0", "*", "::"})
_LOOK_SECONDS = 0.25


def run_engine(settings: Settings) -> int:
    """Run until a signal ends it; returns the exit code. Raises ConfigurationError or CommandError."""
    log_to_stderr(settings)
    return uvloop.run(_until_signalled(settings, plan_of(settings)))


@dataclass(frozen=True)
class HostPlan:
    """What can be known of an engine before it runs. listing: its row in the table, as it begins."""

    opened: ServedBase
    keys: LineKeys
    listing: Listing


def plan_of(settings: Settings) -> HostPlan:
    """Raises ConfigurationError."""
    require_shared_database(settings)
    endpoint = _endpoint(settings)
    opened = open_model(settings)
    prepare_data_dir(settings)
    keys = line_keys(Secret.load(settings.data_dir).derive)
    listing = Listing(
        id=endpoint.removeprefix("tcp://"),
        group=settings.group or opened.served.name,
        host=socket.gethostname(),
        endpoint=endpoint,
        public_key=keys.engines.public,
        epoch=0,
        protocol=PROTOCOL,
        state="starting",
    )
    return HostPlan(opened, keys, listing)


def _endpoint(settings: Settings) -> str:
    """As gateways see it. Raises ConfigurationError."""
    if settings.listen is None:
        raise ConfigurationError("an engine needs --listen, such as tcp://10.0.0.5:5570, where gateways reach it")
    if settings.replicas > 1:
        raise ConfigurationError("--replicas is of `multiflora serve`; start `multiflora engine` once for each engine")
    if settings.artifact_cache_bytes is not None and settings.artifact_store is None:
        _require_own_folder(settings.data_dir)
    if settings.advertise is not None:
        return settings.advertise
    if urlsplit(settings.listen).hostname in _EVERYWHERE:
        raise ConfigurationError(f"--listen {settings.listen} is no address that gateways could use; --advertise one")
    return settings.listen


def _require_own_folder(data_dir: Path) -> None:
    """Raises ConfigurationError where a server that has its artifacts nowhere else may share it."""
    if (data_dir / "incoming").exists():
        raise ConfigurationError(
            f"--artifact-cache-bytes would remove a server's artifacts: {data_dir} is one's; give --artifact-store, or "
            "the engine a --data-dir of its own"
        )


async def _until_signalled(settings: Settings, plan: HostPlan) -> int:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    assert settings.listen is not None, "the plan looked at it"
    shown = _Shown(settings.data_dir, settings.listen, plan.listing)
    with LoadingDisplay() as display:
        await EngineHost(settings, plan, shown.show, on_progress=display.update).run(stopping)
    return ExitCode.OK


class _Shown:
    """What people and probes see of the engine: a line on the terminal when it serves for the first time, and
    DATA_DIR/engine-PORT.ready while it does."""

    def __init__(self, data_dir: Path, listen: str, listing: Listing) -> None:
        self._file = data_dir / f"engine-{urlsplit(listen).port}.ready"
        self._listing = listing
        self._is_announced = False
        self.show(False)

    def show(self, is_ready: bool) -> None:
        if not is_ready:
            self._file.unlink(missing_ok=True)
            return
        self._file.touch()
        if not self._is_announced:
            self._is_announced = True
            print(f"Engine {self._listing.id} serves the group {self._listing.group}.", flush=True)


class EngineHost:
    """An engine and its row in the table. Needs a running event loop. show: told whether it serves, each time after the
    table."""

    def __init__(
        self,
        settings: Settings,
        plan: HostPlan,
        show: Callable[[bool], None],
        on_progress: Callable[[LoadProgress], None] = silent,
    ) -> None:
        assert settings.listen is not None, "the plan looked at it"
        self.supervisor = EngineSupervisor(
            engine_config(settings, plan.opened, settings.data_dir / "artifacts"),
            on_progress=on_progress,
            listen=Listen(settings.listen, plan.keys.engines.secret, plan.keys.gateways.public, settings.line_timeout),
        )
        self._show = show
        self._settings = settings
        self._listing = plan.listing

    async def run(self, stopping: asyncio.Event) -> None:
        """Until it is to stop, and has answered what it had. Raises ConfigurationError or CommandError."""
        database = await open_database(self._settings.resolved_database_url)
        try:
            with contextlib.suppress(Problem):
                await forget_gone(database)
            await self.supervisor.start()
            try:
                await self._serve(database, stopping)
                await self._leave(database)
            finally:
                await self.supervisor.stop()
                await self._withdraw(database)
        except EngineFailed as error:
            if error.kind == "configuration":
                raise ConfigurationError(error.message) from None
            raise CommandError(f"the engine cannot be started: {error.message}") from None
        finally:
            await database.close()

    async def _serve(self, database: Database, stopping: asyncio.Event) -> None:
        """Raises EngineFailed when the engine never will serve."""
        loop = asyncio.get_running_loop()
        due, told = 0.0, None
        while not stopping.is_set():
            supervisor = self.supervisor
            if supervisor.state == "failed":
                await supervisor.wait_ready()
            if (supervisor.state, supervisor.client.epoch) != told or loop.time() >= due:
                told, due = (supervisor.state, supervisor.client.epoch), loop.time() + RENEWED_EVERY
                await self._tell(database, supervisor.state)
                self._show(supervisor.state == "ready")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), _LOOK_SECONDS)

    async def _leave(self, database: Database) -> None:
        """Told first, so that gateways that look now find others; then what it has is answered, as far as
        --drain-timeout reaches."""
        self._show(False)
        await self._tell(database, "draining")
        await self.supervisor.drain(self._settings.drain_timeout)

    async def _withdraw(self, database: Database) -> None:
        self._show(False)
        with contextlib.suppress(Problem):
            await withdraw(database, self._listing.id)

    async def _tell(self, database: Database, state: str) -> None:
        """While the database is away the engine goes on: lines to it do not need the table."""
        try:
            await tell(database, replace(self._listing, epoch=self.supervisor.client.epoch or 0, state=state))
        except Problem as error:
            _log.warning("The engine's lease could not be renewed: %s", error.detail)
