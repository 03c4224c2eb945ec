"""`multiflora ray` where Ray is not installed, and where no node runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from multiflora_platform.cli import on_ray
from multiflora_platform.cli.main import main

COMMANDS = (["up"], ["down"], ["status"], ["deploy", "deploy.yaml"])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_the_extra_a_line_says_what_to_install(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(on_ray, "find_spec", lambda name: None)
    assert main(["ray", *command]) == 3
    assert 'pip install "multiflora[ray]"' in capsys.readouterr().err


def test_without_a_node_a_line_says_how_to_start_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(on_ray, "find_spec", lambda name: object())
    monkeypatch.setenv("MULTIFLORA_DATA_DIR", str(tmp_path))
    file = tmp_path / "deploy.yaml"
    file.write_text("groups: [{group: a, model: m, max_num_seq: 1}]", encoding="utf-8")
    assert main(["ray", "status"]) == 4
    assert "multiflora ray up" in capsys.readouterr().err
    assert main(["ray", "deploy", str(file)]) == 3, "what is wrong with the file is told before"
    assert "max_num_seq" in capsys.readouterr().err
    assert main(["ray", "down"]) == 0
    assert capsys.readouterr().out == "No Ray node runs here.\n"


def test_a_cluster_of_another_program_is_reached_by_its_address_and_token(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(on_ray, "find_spec", lambda name: object())
    assert main(["ray", "status", "--address", "10.0.0.5:6379"]) == 3
    assert "--address needs --token-file" in capsys.readouterr().err
