"""What `multiflora engine` and `multiflora gateway` refuse before anything is loaded: a sentence, and exit code 3."""

from __future__ import annotations

from pathlib import Path

import pytest

from multiflora_platform.cli.main import main

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
        (["gateway", *DATABASE, "--cache-events-zmq", "tcp://*:5557"], "does not take --cache-events-zmq"),
        (["serve", *LISTEN], "--listen is of `multiflora engine`"),
        (["engine", *DATABASE, *LISTEN, "--secret-file", "nowhere"], "openssl rand -hex 32"),
    ],
)
def test_settings_that_cannot_work_are_told(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--data-dir", str(tmp_path / "data")]) == 3
    assert told in capsys.readouterr().err
