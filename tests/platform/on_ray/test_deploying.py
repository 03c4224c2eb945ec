"""A file that is watched: deployed when it changes and when its groups are gone, with mistakes told and mended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from multiflora_platform.exit_codes import CommandError, ExitCode
from multiflora_platform.on_ray.deploying import keep_deployed
from multiflora_platform.on_ray.status import RayGroup


class Cluster:
    """Has what was deployed last; `wait` of what is broken fails."""

    def __init__(self) -> None:
        self.deployed: list[list[str]] = []
        self.there: list[str] = []

    def total_gpus(self) -> float:
        return 0

    def deploy(self, applications: Sequence[dict[str, Any]]) -> None:
        self.there = [one["name"] for one in applications]
        self.deployed.append(self.there)

    def wait_deployed(self, names: Sequence[str], timeout: float, tell: Callable[[RayGroup], None]) -> None:
        tell(RayGroup(names[0], "RUNNING", {"RUNNING": 2}, ""))
        if "broken" in names:
            raise CommandError("the group broken could not be deployed")

    def groups(self) -> Sequence[RayGroup]:
        return [RayGroup(name, "RUNNING", {}, "") for name in self.there]


def test_what_is_deployed_follows_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cluster, file = Cluster(), tmp_path / "deploy.yaml"

    def write(*names: str) -> None:
        file.write_text(f"groups: [{', '.join(f'{{group: {name}, model: m}}' for name in names)}]", encoding="utf-8")

    def nothing() -> None: ...

    def lose_all() -> None:
        cluster.there = []

    def end() -> None:
        raise CommandError("Ray Serve does not answer", ExitCode.UNREACHABLE)

    steps: list[Callable[[], None]] = [
        nothing,
        lambda: write("a", "b"),
        lambda: file.write_text("groups: [", encoding="utf-8") and None,
        nothing,
        lambda: write("a", "broken"),
        nothing,
        lambda: write("a"),
        lose_all,
        end,
    ]
    write("a")
    with pytest.raises(CommandError, match="does not answer"):
        keep_deployed(cluster, file, 1.0, lambda: steps.pop(0)())
    assert cluster.deployed == [["a"], ["a", "b"], ["a", "broken"], ["a"], ["a"]]
    told = capsys.readouterr().out.splitlines()
    assert told.count("a: running (2 running)") == 5
    assert [line.partition(": ")[2][:9] for line in told if line.startswith("multiflora: ")] == [
        f"{file}"[:9],
        "the group",
    ]


def test_a_cluster_that_does_not_answer_is_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, file = Cluster(), tmp_path / "deploy.yaml"
    file.write_text("groups: [{group: a, model: m}]", encoding="utf-8")

    def gone() -> Sequence[RayGroup]:
        raise CommandError("Ray Serve does not answer", ExitCode.UNREACHABLE)

    pauses: list[None] = []

    def pause() -> None:
        pauses.append(None)
        monkeypatch.setattr(cluster, "groups", gone)

    with pytest.raises(CommandError):
        keep_deployed(cluster, file, 1.0, pause)
    assert len(pauses) == 1
