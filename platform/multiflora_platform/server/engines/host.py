"""`multiflora engine`: one engine under its own supervisor, which gateways of other hosts find in the database.

Owns its start, its lease and its end. Knows no HTTP and no registry.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from pathlib import Path
from urllib.parse import urlsplit

import uvloop
from msgspec.structs import replace

from multiflora_engine.process.supervisor import EngineFailed, EngineSupervisor
from multiflora_engine.protocol.lines import Listen
from multiflora_engine.protocol.messages import PROTOCOL
from multiflora_platform.auth.secret import Secret
from multiflora_platform.base_models.opening import ServedBase, engine_config, open_model, prepare_data_dir
from multiflora_platform.exit_codes import CommandError, ExitCode
from multiflora_platform.fleet.hosts.line_keys import LineKeys, line_keys
from multiflora_platform.fleet.hosts.replica_table import RENEWED_EVERY, Listing, tell, withdraw
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
    return uvloop.run(_host(settings, opened, keys, listing))


def _endpoint(settings: Settings) -> str:
    """As gateways see it. Raises ConfigurationError."""
    if settings.listen is None:
        raise ConfigurationError("an engine needs --listen, such as tcp://10.0.0.5:5570, where gateways reach it")
    if settings.replicas > 1:
        raise ConfigurationError("--replicas is of `multiflora serve`; start `multiflora engine` once for each engine")
    if settings.advertise is not None:
        return settings.advertise
    if urlsplit(settings.listen).hostname in _EVERYWHERE:
        raise ConfigurationError(f"--listen {settings.listen} is no address that gateways could use; --advertise one")
    return settings.listen


async def _host(settings: Settings, opened: ServedBase, keys: LineKeys, listing: Listing) -> int:
    assert settings.listen is not None, "it was looked at"
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    database = await open_database(settings)
    try:
        with LoadingDisplay() as display:
            supervisor = EngineSupervisor(
                engine_config(settings, opened, settings.data_dir / "artifacts"),
                on_progress=display.update,
                listen=Listen(settings.listen, keys.engines.secret, keys.gateways.public),
            )
            hosted = _Hosted(supervisor, database, listing, _ReadyFile(settings.data_dir, settings.listen))
            await supervisor.start()
            try:
                await hosted.run(stopping)
                await hosted.leave(settings.drain_timeout)
            finally:
                await supervisor.stop()
                await hosted.withdraw()
    except EngineFailed as error:
        if error.kind == "configuration":
            raise ConfigurationError(error.message) from None
        raise CommandError(f"the engine cannot be started: {error.message}") from None
    finally:
        await database.close()
    return ExitCode.OK


class _ReadyFile:
    """DATA_DIR/engine-PORT.ready is there while the engine serves, for probes of what starts it."""

    def __init__(self, data_dir: Path, listen: str) -> None:
        self._path = data_dir / f"engine-{urlsplit(listen).port}.ready"
        self.show(False)

    def show(self, is_ready: bool) -> None:
        if is_ready:
            self._path.touch()
        else:
            self._path.unlink(missing_ok=True)


class _Hosted:
    """The engine, its row in the table and its file."""

    def __init__(
        self, supervisor: EngineSupervisor, database: Database, listing: Listing, ready_file: _ReadyFile
    ) -> None:
        self._supervisor = supervisor
        self._database = database
        self._listing = listing
        self._ready_file = ready_file
        self._is_announced = False

    async def run(self, stopping: asyncio.Event) -> None:
        """Until it is to stop. Raises EngineFailed when the engine never will serve."""
        loop = asyncio.get_running_loop()
        due, told = 0.0, None
        while not stopping.is_set():
            supervisor = self._supervisor
            if supervisor.state == "failed":
                await supervisor.wait_ready()
            self._announce()
            if (supervisor.state, supervisor.client.epoch) != told or loop.time() >= due:
                told, due = (supervisor.state, supervisor.client.epoch), loop.time() + RENEWED_EVERY
                self._ready_file.show(supervisor.state == "ready")
                await self._tell(supervisor.state)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), _LOOK_SECONDS)

    async def leave(self, patience: float) -> None:
        """Told first, so that gateways that look now find others; then what it has is answered, as far as patience
        (seconds) reaches."""
        self._ready_file.show(False)
        await self._tell("draining")
        await self._supervisor.drain(patience)

    async def withdraw(self) -> None:
        self._ready_file.show(False)
        with contextlib.suppress(Problem):
            await withdraw(self._database, self._listing.id)

    async def _tell(self, state: str) -> None:
        """While the database is away the engine goes on: lines to it do not need the table."""
        try:
            await tell(self._database, replace(self._listing, epoch=self._supervisor.client.epoch or 0, state=state))
        except Problem as error:
            _log.warning("The engine's lease could not be renewed: %s", error.detail)

    def _announce(self) -> None:
        if self._supervisor.client.ready is not None and not self._is_announced:
            self._is_announced = True
            print(f"Engine {self._listing.id} serves the group {self._listing.group}.", flush=True)
