"""Engines that Ray starts on a node of this machine alone: two of one group behind two gateways, and further groups."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from tests.e2e.conftest import Server, serving
from tests.e2e.test_base_models import Tiny, tiny
from tests.e2e.test_hosts import PROMPT, Gateways, complete, state_of, under_load
from tests.e2e.test_lifecycle import wait_until
from tests.platform.registry.postgres import running

from multiflora_platform.demo import demo_folder
from multiflora_platform.storage.migrations import upgrade

__all__ = ["tiny"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason='Ray is not installed (pip install -e ".[ray]")'),
]
PATIENCE = 120
FIRST = {"group": "site", "replicas": 2}
UPDATED = {**FIRST, "max_num_seqs": 32}


@dataclass
class Cluster:
    """A node that `multiflora ray` started, and the file that it deploys."""

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


@pytest.fixture(scope="module")
def cluster(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("ray")
    (folder / "secret").write_text("5e" * 32, encoding="ascii")
    with running() as postgres:
        if postgres is None:
            pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
        url = postgres.create()
        upgrade(url)
        common = {
            "database_url": url,
            "secret_file": str(folder / "secret"),
            "data_dir": str(folder / "engines"),
            "model": str(tiny.base),
            "kv_cache_memory": 4_000_000,
            "num_threads": 1,
        }
        cluster = Cluster(folder, common)
        started = cluster.run("up", "--num-cpus", "8")
        assert started.returncode == 0, started.stderr
        try:
            yield cluster
        finally:
            ended = cluster.run("down")
            assert ended.returncode == 0, ended.stderr


@pytest.fixture(scope="module")
def site(cluster: Cluster) -> Iterator[Gateways]:
    """Two gateways on the group `site`, which has two engines."""
    cluster.deploy(FIRST)
    with ExitStack() as stack:
        gateways = [stack.enter_context(gateway(cluster, number)) for number in range(2)]
        site = Gateways(gateways)
        wait_until(lambda: [len(seen) for seen in site.ready()] == [2, 2])
        yield site


def gateway(cluster: Cluster, number: int) -> AbstractContextManager[Server]:
    common = cluster.common
    shared = ["--database-url", common["database_url"], "--secret-file", common["secret_file"], "--group", "site"]
    return serving(cluster.folder / f"gateway-{number}", common["model"], *shared, entry=("multiflora", "gateway"))


def test_only_who_has_the_token_is_served_and_only_on_this_machine(cluster: Cluster) -> None:
    addresses = {
        connection.laddr.ip
        for process in cluster.processes()
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses <= {"127.0.0.1", "::ffff:127.0.0.1"}
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    variables = {**os.environ, **loopback, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    asked = [sys.executable, "-m", "ray.scripts.scripts", "status", "--address", cluster.node["address"]]
    refused = subprocess.run(asked, env=variables, capture_output=True, text=True, timeout=PATIENCE)
    assert refused.returncode != 0
    assert "auth" in (refused.stdout + refused.stderr).lower()
    folder = Path(cluster.node["folder"])
    modes = {path: path.stat().st_mode & 0o077 for path in (folder, cluster.folder / "node" / "ray" / "token")}
    assert set(modes.values()) == {0}


def test_a_killed_replica_costs_only_streams_that_had_begun_and_comes_back(cluster: Cluster, site: Gateways) -> None:
    def kill() -> None:
        cluster.serving("site")[0].kill()

    before = site.ready()[0]
    statuses, ends = under_load(site, kill)
    assert set(statuses) == {200}
    assert set(ends) <= {"[DONE]", "engine_dead"}
    wait_until(lambda: [len(seen) for seen in site.ready()] == [2, 2], PATIENCE)
    assert len(site.ready()[0] & before) == 1, "the other one lived on"


def test_a_killed_engine_is_started_again_without_ray(cluster: Cluster, site: Gateways) -> None:
    replica, before = cluster.serving("site")[0], site.ready()[0]
    replica.children()[0].kill()
    wait_until(lambda: len(site.ready()[0]) == 1)
    wait_until(lambda: site.ready() == [before, before], PATIENCE)
    assert replica.is_running()


def test_a_rolling_update_fails_no_request(cluster: Cluster, site: Gateways) -> None:
    before = site.ready()[0]
    statuses, ends = while_it_lasts(site, lambda: cluster.deploy(UPDATED))
    assert set(statuses) == {200}
    assert set(ends) == {"[DONE]"}
    wait_until(lambda: [len(seen) for seen in site.ready()] == [2, 2], PATIENCE)
    assert not site.ready()[0] & before


def while_it_lasts(site: Gateways, work: Callable[[], None]) -> tuple[list[int], list[str]]:
    """Statuses of short requests, and how streams ended, which clients of both gateways send until the work is done."""
    done = threading.Event()

    def ask(gateway: Server) -> tuple[list[int], list[str]]:
        statuses, ends = [], []
        body = {"model": "tiny-base", "prompt": PROMPT, "max_tokens": 300, "ignore_eos": True}
        with gateway.http() as http:
            while not done.wait(0.1):
                statuses.append(http.post("/v1/completions", json={**body, "max_tokens": 1}).status_code)
                with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
                    ends.append([line.removeprefix("data: ") for line in answer.iter_lines() if line][-1])
        return statuses, ends

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask, gateway) for gateway in site.gateways]
        try:
            work()
        finally:
            done.set()
        asked = [one.result() for one in asking]
    return [status for statuses, _ in asked for status in statuses], [end for _, ends in asked for end in ends]


def test_further_groups_come_and_go_beside_the_first(cluster: Cluster, site: Gateways) -> None:
    """One of another base model on two ranks, and one that cannot start, which is told in a line."""
    before, demo = site.ready()[0], demo_folder() / "base"
    second = {"group": "second", "model": str(demo), "tensor_parallel_size": 2, "min_replicas": 1, "max_replicas": 2}
    failed = cluster.deployed(UPDATED, second, {"group": "none", "model": "/no/such/folder"})
    assert failed.returncode == 1
    assert failed.stderr.startswith("multiflora: the group none could not be deployed: There is no folder")
    assert failed.stderr.count("\n") == 1
    one, two = (gateway.http() for gateway in site.gateways)
    with one, two:
        assert one.post("/api/v1/models", json={"name": "second", "source": str(demo)}).status_code == 202
        wait_until(lambda: [state_of(http, "second") for http in (one, two)] == ["ready"] * 2, PATIENCE)
        texts = {complete(http, "second", 8)["choices"][0]["text"] for http in (one, two)}
        assert len(texts - {complete(one, "tiny-base", 8)["choices"][0]["text"]}) == 1
        status = json.loads(cluster.run("status", "-o", "json").stdout)
        assert two.delete("/api/v1/models/second").status_code == 204
    states = {group["name"]: group["state"] for group in status["groups"]}
    assert (states["site"], states["none"]) == ("RUNNING", "DEPLOY_FAILED")
    engines = {(row["group"], row["engine"]) for row in status["engines"] if row["state"] == "ready"}
    assert {id for group, id in engines if group == "site"} == before, "what is deployed already is left alone"
    assert len(engines) == 3
    assert [node["state"] for node in status["nodes"]] == ["alive"]

    cluster.deploy(UPDATED)
    wait_until(lambda: not cluster.serving("second"), PATIENCE)
    assert site.ready()[0] == before


def test_the_end_leaves_neither_process_nor_folder(cluster: Cluster) -> None:
    processes, folder = cluster.processes(), Path(cluster.node["folder"])
    assert processes
    assert cluster.run("down").returncode == 0
    assert not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert not folder.exists()
    gone = cluster.run("status")
    assert (gone.returncode, gone.stderr.count("\n")) == (4, 1)
    assert cluster.run("down").returncode == 0
