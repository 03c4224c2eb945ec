"""Two gateways and two engines, each on a network stack of its own, as hosts are: a cable is pulled, and put back."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import psutil
import pytest
from tests.e2e.launchers import OwnProcesses, Site, running_gateway
from tests.e2e.network import Network, ip, why_no_network
from tests.e2e.test_base_models import Tiny, tiny
from tests.e2e.test_hosts import PROMPT, cached, complete
from tests.e2e.test_lifecycle import wait_until
from tests.platform.registry.postgres import running

from multiflora_platform.storage.migrations import upgrade

__all__ = ["tiny"]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cables() -> list[str]:
    """Of the engines; `site` fills it."""
    return []


@pytest.fixture(scope="module")
def site(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory, cables: list[str]) -> Iterator[Site]:
    if (reason := why_no_network()) is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("site")
    secret = folder / "secret"
    secret.write_text("5e" * 32, encoding="ascii")
    with ExitStack() as stack:
        postgres = stack.enter_context(running())
        if postgres is None:
            pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
        url = postgres.url_of_folder(postgres.create().rpartition("/")[2])
        upgrade(url)
        network = Network(stack)
        shared = ["--database-url", url, "--secret-file", str(secret)]

        def place() -> tuple[str, list[str]]:
            address, within, cable = network.host()
            cables.append(cable)
            return f"tcp://{address}:5570", within

        engines = OwnProcesses(folder, shared, place)
        engines.start(stack, tiny.base)
        gateways = []
        for number in range(2):
            address, within, _ = network.host()
            own = running_gateway(folder / f"gateway-{number}", tiny.base, shared, "--host", address, within=within)
            gateways.append(stack.enter_context(own))
        site = Site(gateways, engines)
        wait_until(lambda: [len(seen) for seen in site.ready()] == [2, 2])
        yield site


@contextmanager
def cut(cable: str) -> Iterator[None]:
    ip(f"link set {cable} down")
    try:
        yield
    finally:
        ip(f"link set {cable} up")


def lives(site: Site) -> list[int]:
    """The processes of engines, their children, and the gateways."""
    assert isinstance(site.launcher, OwnProcesses)
    own = [one.pid for one in site.launcher.processes]
    children = [child.pid for pid in own for child in psutil.Process(pid).children()]
    return [*children, *own, *(one.process.pid for one in site.gateways)]


def ask(site: Site, number: int) -> int:
    with site.gateways[number % 2].http() as http:
        body = {"model": "tiny-base", "prompt": f"{number} {PROMPT}", "max_tokens": 1}
        return http.post("/v1/completions", json=body).status_code


def stream(site: Site, number: int, begun: threading.Barrier) -> str:
    """How it ended that had begun before the cut."""
    body = {"model": "tiny-base", "prompt": f"{number} {PROMPT}", "max_tokens": 300, "ignore_eos": True, "stream": True}
    with site.gateways[number % 2].http() as http, http.stream("POST", "/v1/completions", json=body) as answer:
        lines = (line.removeprefix("data: ") for line in answer.iter_lines() if line)
        next(lines)
        begun.wait(60)
        last = list(lines)[-1]
    return last if last == "[DONE]" else str(json.loads(last)["error"]["code"])


def test_a_cut_network_fails_over_and_heals_without_a_restart(site: Site, cables: list[str]) -> None:
    """All is answered, or told to be lost, before the cable is back: how soon is --line-timeout's, of which
    test_far_engines.py and test_lines.py have what it comes to."""
    before = lives(site)
    with site.gateways[0].http() as http:
        complete(http, "tiny-base", 1, "a long document " * 8)
    begun = threading.Barrier(9)
    with ThreadPoolExecutor(24) as pool:
        streams = [pool.submit(stream, site, number, begun) for number in range(8)]
        begun.wait(60)
        with cut(cables[0]):
            later = [pool.submit(ask, site, number) for number in range(100, 116)]
            assert {one.result() for one in later} == {200}
            assert {one.result() for one in streams} <= {"[DONE]", "engine_dead"}
            wait_until(lambda: [len(seen) for seen in site.ready()] == [1, 1])
    wait_until(lambda: [len(seen) for seen in site.ready()] == [2, 2])
    assert lives(site) == before
    for number in (0, 1):
        with site.gateways[number].http() as http:
            found = [cached(complete(http, "tiny-base", 1, "a long document " * 8)) for _ in range(2)]
        assert found[-1] > 0
