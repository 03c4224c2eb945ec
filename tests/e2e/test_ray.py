"""What Ray alone does of engines on a node of this machine: two of one group behind two gateways, and further groups.
What they have in common with engines that are started otherwise is in test_hosts.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from tests.e2e.conftest import Server
from tests.e2e.launchers import FIRST, Gateways, RayNode, ray_node, running_gateway
from tests.e2e.test_base_models import Tiny, tiny
from tests.e2e.test_hosts import NO_RAY, PATIENCE, PROMPT, complete, state_of
from tests.e2e.test_lifecycle import wait_until
from tests.platform.registry.postgres import running

from multiflora_platform.demo import demo_folder
from multiflora_platform.storage.migrations import upgrade

__all__ = ["tiny"]
pytestmark = [pytest.mark.slow, NO_RAY]
UPDATED = {**FIRST, "max_num_seqs": 32}


@pytest.fixture(scope="module")
def cluster(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNode]:
    folder = tmp_path_factory.mktemp("ray")
    (folder / "secret").write_text("5e" * 32, encoding="ascii")
    with running() as postgres:
        if postgres is None:
            pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
        url = postgres.create()
        upgrade(url)
        with ray_node(folder, tiny.base, url) as node:
            yield node


@pytest.fixture(scope="module")
def site(cluster: RayNode, tiny: Tiny) -> Iterator[Gateways]:
    """Two gateways on the group `site`, which has two engines."""
    cluster.deploy(FIRST)
    shared = ["--database-url", cluster.common["database_url"], "--secret-file", cluster.common["secret_file"]]
    with ExitStack() as stack:
        folders = [cluster.folder / f"gateway-{number}" for number in range(2)]
        site = Gateways([stack.enter_context(running_gateway(folder, tiny.base, shared)) for folder in folders])
        wait_until(lambda: [len(seen) for seen in site.ready()] == [2, 2])
        yield site


def test_only_who_has_the_token_is_served_and_only_on_this_machine(cluster: RayNode) -> None:
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


def test_a_killed_engine_is_started_again_without_ray(cluster: RayNode, site: Gateways) -> None:
    replica, before = cluster.serving("site")[0], site.ready()[0]
    replica.children()[0].kill()
    wait_until(lambda: len(site.ready()[0]) == 1)
    wait_until(lambda: site.ready() == [before, before], PATIENCE)
    assert replica.is_running()


def test_a_rolling_update_fails_no_request(cluster: RayNode, site: Gateways) -> None:
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


def test_further_groups_come_and_go_beside_the_first(cluster: RayNode, site: Gateways) -> None:
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


def test_the_end_leaves_neither_process_nor_folder(cluster: RayNode) -> None:
    processes, folder = cluster.processes(), Path(cluster.node["folder"])
    assert processes
    assert cluster.run("down").returncode == 0
    assert not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert not folder.exists()
    gone = cluster.run("status")
    assert (gone.returncode, gone.stderr.count("\n")) == (4, 1)
    assert cluster.run("down").returncode == 0
