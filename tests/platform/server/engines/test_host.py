"""`multiflora engine` and `gateway`: what they refuse before anything is loaded, and what probes see of an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from multiflora_platform.cli.main import main
from multiflora_platform.fleet.hosts.line_keys import KeyPair, LineKeys
from multiflora_platform.fleet.hosts.replica_table import Listing
from multiflora_platform.server.engines import host
from multiflora_platform.settings import Settings
from multiflora_platform.web.problems import Unavailable

DATABASE = ["--database-url", "sqlite:////nowhere/fleet.db"]
LISTEN = ["--listen", "tcp://127.0.0.1:5570"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["engine", *LISTEN], "give --database-url"),
        (["gateway"], "give --database-url"),
        (["engine", *DATABASE], "an engine needs --listen"),
        (["engine", *DATABASE, "--listen", "127.0.0.1:5570"], "--listen"),
        (["engine", *DATABASE, "--listen", "tcp://0.0.0.0:5570"], "--advertise"),
        (["engine", *DATABASE, *LISTEN, "--replicas", "2"], "--replicas"),
        (["gateway", *DATABASE, *LISTEN], "does not take --listen"),
        (["serve", *LISTEN], "--listen is of `multiflora engine`"),
        (["engine", *DATABASE, *LISTEN, "--secret-file", "nowhere"], "openssl rand -hex 32"),
    ],
)
def test_settings_that_cannot_work_are_told(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--data-dir", str(tmp_path / "data")]) == 3
    assert told in capsys.readouterr().err


def test_an_engine_removes_no_artifacts_of_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "incoming").mkdir()  # which a server makes
    arguments = ["engine", *DATABASE, *LISTEN, "--artifact-cache-bytes", "1000", "--data-dir", str(tmp_path)]
    assert main(arguments) == 3
    assert "would remove a server's artifacts" in capsys.readouterr().err


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - the disk sends no signal
            await asyncio.sleep(0.01)


async def test_a_file_tells_probes_that_the_engine_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a database: lines to the engine do not need it."""

    async def away(*_: Any) -> None:
        raise Unavailable("The database is away.")

    async def drain(patience: float) -> None:
        assert not file.exists(), "before the last answers"

    file = tmp_path / "engine-5570.ready"
    file.touch()  # an engine that was killed left it
    supervisor = SimpleNamespace(state="starting", client=SimpleNamespace(ready=None, epoch=1), drain=drain)
    monkeypatch.setattr(host, "EngineSupervisor", lambda *_, **__: supervisor)
    monkeypatch.setattr(host, "engine_config", lambda *_: None)
    listing = Listing("a", "g", "h", "tcp://a:5570", "k", 0, 1, "starting")
    keys = LineKeys(KeyPair("", ""), KeyPair("", ""))
    settings = Settings(listen="tcp://0.0.0.0:5570", data_dir=tmp_path)
    plan = host.HostPlan(cast(Any, None), keys, listing)
    hosted = host.EngineHost(settings, plan, host._Shown(tmp_path, "tcp://0.0.0.0:5570", listing).show)
    assert not file.exists()
    database, stopping = cast(Any, SimpleNamespace(write=away)), asyncio.Event()
    running = asyncio.create_task(hosted._serve(database, stopping))
    for state, is_there in (("ready", True), ("restarting", False), ("ready", True)):
        supervisor.state = state
        await _until(lambda is_there=is_there: file.exists() == is_there)
    stopping.set()
    await running
    await hosted._leave(database)
