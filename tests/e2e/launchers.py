"""What starts engines of several hosts: processes of the tests' own, or Ray. Tests ask the same of both."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import psutil
import yaml
from tests.e2e.conftest import ONE_THREAD, Server, serving
from tests.engine.process.test_lines import free_port

KV_BYTES = 4_000_000
GROUP = "site"
FIRST = {"group": GROUP, "replicas": 2}


@dataclass
class Gateways:
    gateways: list[Server]

    def replicas(self, gateway: int = 0) -> list[Any]:
        with self.gateways[gateway].http() as http:
            return list(http.get("/api/v1/replicas").json()["items"])

    def ready(self) -> list[set[str]]:
        """The engines that each gateway sees and that serve."""
        seen = [self.replicas(number) for number in range(len(self.gateways))]
        return [{row["id"] for row in rows if row["state"] == "ready"} for rows in seen]


class Launcher(Protocol):
    """Of two engines of the group `site`."""

    def kill(self) -> None:
        """The first one ends at once, as if its memory had run out, and is started again."""
        ...

    def restart(self) -> None:
        """The first one's own process is told to end, and is started again."""
        ...

    def end(self) -> None:
        """One is told to end for good."""
        ...

    def another(self, model: Path, group: str) -> AbstractContextManager[object]:
        """One more, of a group of its own."""
        ...


@dataclass
class Site(Gateways):
    """mirrors: where the second gateway is asked for what the caches hold, over ZeroMQ; empty where it is not."""

    launcher: Launcher
    mirrors: str = ""


def running_gateway(
    folder: Path, model: Path, shared: Sequence[str], *further: str, within: Sequence[str] = ()
) -> AbstractContextManager[Server]:
    """shared: with engines: database and secret. within: as `serving` has it."""
    own = [str(model), "--group", GROUP, *shared, *further]
    return serving(folder, *own, entry=("multiflora", "gateway"), within=within)


# ---- processes of the tests' own


@dataclass
class OwnProcesses:
    """A `Launcher` of `multiflora engine`, each with a folder of its own, as on hosts of their own."""

    folder: Path
    shared: Sequence[str]
    place: Callable[[], tuple[str, Sequence[str]]]
    """The address of one more, and the command that another one runs within."""
    processes: list[subprocess.Popen[str]] = field(default_factory=list)
    output: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    @contextmanager
    def another(self, model: Path, group: str) -> Iterator[subprocess.Popen[str]]:
        endpoint, within = self.place()
        own = ["--listen", endpoint, "--data-dir", str(self.folder / f"engine-{next(self._numbers)}")]
        memory = ["--kv-cache-memory", str(KV_BYTES), *ONE_THREAD]
        command = [*within, sys.executable, "-m", "multiflora", "engine", str(model), "--group", group]
        process = subprocess.Popen(
            [*command, *self.shared, *own, *memory], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        reader = threading.Thread(target=lambda: self.output.extend(process.stdout or ()), daemon=True)
        reader.start()
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            reader.join(10)
            process.stdout.close()

    def start(self, stack: ExitStack, model: Path) -> None:
        """The two of the group."""
        self.processes += [stack.enter_context(self.another(model, GROUP)) for _ in range(2)]

    def kill(self) -> None:
        self._engine().kill()

    def restart(self) -> None:
        self._engine().send_signal(signal.SIGTERM)

    def _engine(self) -> psutil.Process:
        (child,) = psutil.Process(self.processes[0].pid).children()
        return child

    def end(self) -> None:
        self.processes[1].send_signal(signal.SIGTERM)


def on_loopback() -> tuple[str, Sequence[str]]:
    """A place for one of OwnProcesses."""
    return f"tcp://127.0.0.1:{free_port()}", ()


# ---- Ray


@dataclass
class RayNode:
    """A `Launcher`: a node of this machine alone that `multiflora ray` started, and the file that it deploys.

    common: keys of all groups.
    """

    folder: Path
    common: dict[str, Any]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "multiflora", "ray", *arguments]
        variables = {**os.environ, "MULTIFLORA_DATA_DIR": str(self.folder / "node")}
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=500)

    def deployed(self, *groups: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        file = self.folder / "deploy.yaml"
        file.write_text(yaml.safe_dump({**self.common, "groups": list(groups)}), encoding="utf-8")
        return self.run("deploy", str(file))

    def deploy(self, *groups: dict[str, Any]) -> None:
        done = self.deployed(*groups)
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def node(self) -> Any:
        return json.loads((self.folder / "node" / "ray" / "node.json").read_text(encoding="utf-8"))

    def processes(self) -> list[psutil.Process]:
        return psutil.Process(self.node["pid"]).children(recursive=True)

    def serving(self, group: str) -> list[psutil.Process]:
        """Ray's processes that have an engine of the group."""
        found = []
        for one in self.processes():
            with suppress(psutil.NoSuchProcess):
                if one.cmdline()[:1] == [f"ray::ServeReplica:{group}:engine"] and one.children():
                    found.append(one)
        return found

    def kill(self) -> None:
        self.serving(GROUP)[0].kill()

    def restart(self) -> None:
        self.serving(GROUP)[0].children()[0].send_signal(signal.SIGTERM)

    def end(self) -> None:
        self.deploy({**FIRST, "replicas": 1})

    @contextmanager
    def another(self, model: Path, group: str) -> Iterator[None]:
        one = {**FIRST, "replicas": 1}
        self.deploy(one, {"group": group, "model": str(model)})
        yield
        self.deploy(one)


@contextmanager
def ray_node(folder: Path, model: Path, url: str) -> Iterator[RayNode]:
    """url: of the database. The secret is the folder's file `secret`."""
    common = {
        "database_url": url,
        "secret_file": str(folder / "secret"),
        "data_dir": str(folder / "engines"),
        "model": str(model),
        "kv_cache_memory": KV_BYTES,
        "num_threads": 1,
    }
    node = RayNode(folder, common)
    started = node.run("up", "--num-cpus", "8")
    assert started.returncode == 0, started.stderr
    try:
        yield node
    finally:
        ended = node.run("down")
        assert ended.returncode == 0, ended.stderr
