"""The services of the Compose files, as processes: the commands, the environment and the health checks that are there,
each on a network stack of its own where the others have their names. In front of them nginx."""

from __future__ import annotations

import json
import os
import re
import shlex
import string
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.deploy.test_files import DOCKERFILE, WITH_ENGINES
from tests.deploy.test_nginx import NGINX, TEMPLATE, nginx_configuration
from tests.e2e.network import Network, why_no_network
from tests.e2e.test_lifecycle import wait_until
from tests.platform.registry.postgres import running

pytestmark = [pytest.mark.slow, pytest.mark.skipif(NGINX is None, reason="needs nginx")]

KEY, MODEL = "compose-admin-key-of-tests", "multiflora-demo"
DOT_ENV = {"MULTIFLORA_API_KEY": KEY, "POSTGRES_PASSWORD": "-", "NGINX_RATE": "1r/m", "NGINX_BURST": "40"}
# What the image's last stage sets.
(_IN_IMAGE,) = re.findall(r"^ENV (PATH(?:.*\\\n)+.*)$", DOCKERFILE.rpartition("FROM")[2], re.MULTILINE)
(_HEALTH,) = re.findall(r"^HEALTHCHECK .*\\\n\s+CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
_ENTERS = ("sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"')


def filled(text: str) -> str:
    """With what `.env` says in the braces' place, or what stands behind a name there."""
    return re.sub(r"\$\{(\w+)(?::[-?]([^}]*))?\}", lambda found: DOT_ENV.get(found[1], found[2] or ""), text)


@dataclass
class Composed:
    """address: of each service. processes: of those that are started."""

    folder: Path
    database_url: str
    address: dict[str, str] = field(default_factory=dict)
    within: dict[str, list[str]] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def add(self, name: str, network: Network) -> None:
        address, within, _ = network.host()
        self.address[name], self.within[name] = address, [*within, *_ENTERS, str(self.folder / "hosts")]
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self.address.items())]
        (self.folder / "hosts").write_text("\n".join(lines), encoding="utf-8")

    def moved(self, name: str, text: str) -> str:
        """With this machine's folders in the place of a container's."""
        volume = next((one for one in service(name).get("volumes", []) if one.endswith(":/data")), name)
        data = self.folder / volume.partition(":")[0]
        return re.sub(r"^/data\b", str(data), filled(text)).replace("/run/secrets/line", str(self.folder / "secret"))

    def environment(self, name: str) -> dict[str, str]:
        in_image = dict(part.split("=", 1) for part in shlex.split(_IN_IMAGE.replace("\\\n", " ")))
        asked: Mapping[str, str | None] = service(name)["environment"]
        variables = {**in_image, **{key: value for key, value in asked.items() if value is not None}}
        moved = {key: self.moved(name, value) for key, value in variables.items()}
        here = {"PATH": os.environ["PATH"], "MULTIFLORA_DATABASE_URL": self.database_url, "MULTIFLORA_NUM_THREADS": "1"}
        return {**moved, **here}

    def command(self, name: str) -> list[str]:
        return [sys.executable, "-m", "multiflora", *map(filled, service(name)["command"])]

    def start(self, name: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [*self.within[name], *self.command(name)], env=self.environment(name), stdout=log, stderr=log
            )

    def is_healthy(self, name: str) -> bool:
        assert self.processes[name].poll() is None, (self.folder / f"{name}.log").read_text(encoding="utf-8")
        check = service(name).get("healthcheck", {}).get("test", ["CMD", *json.loads(_HEALTH)])
        command = [self.moved(name, word) for word in check[1:]]
        python = sys.executable if command[0] == "python" else command[0]
        return subprocess.run([*self.within[name], python, *command[1:]], capture_output=True).returncode == 0


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = WITH_ENGINES["services"][name]
    return found


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    """What depends on others is started when they are as it asks."""
    if (reason := why_no_network()) is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("composed")
    (folder / "secret").write_text("5e" * 32, encoding="ascii")
    with ExitStack() as stack:
        postgres = stack.enter_context(running())
        if postgres is None:
            pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
        composed = Composed(folder, postgres.url_of_folder(postgres.create().rpartition("/")[2]))
        network = Network(stack)
        for name in ("engine", "engine-2", "server", "server-2", "proxy"):
            composed.add(name, network)
        subprocess.run(composed.command("upgrade"), env=composed.environment("upgrade"), check=True)
        stack.callback(stop, composed)
        for names in (("engine", "engine-2"), ("server",), ("server-2",)):
            for name in names:
                composed.start(name)
            wait_until(lambda names=names: all(map(composed.is_healthy, names)), 180)  # type: ignore[misc]
        site = string.Template(TEMPLATE.read_text(encoding="utf-8")).safe_substitute(
            {key: filled(value) for key, value in service("proxy")["environment"].items()}
        )
        assert NGINX is not None
        command = [NGINX, "-p", str(folder), "-e", "stderr", "-c", str(nginx_configuration(folder, site))]
        composed.processes["proxy"] = subprocess.Popen([*composed.within["proxy"], *command])
        yield composed


def stop(composed: Composed) -> None:
    for process in reversed(composed.processes.values()):
        process.terminate()
    for process in composed.processes.values():
        process.wait(90)


@pytest.fixture
def http(composed: Composed) -> Iterator[httpx.Client]:
    """A client of the proxy, as a browser of the machine itself."""
    headers = {"Authorization": f"Bearer {KEY}", "Host": "localhost"}
    with httpx.Client(base_url=f"http://{composed.address['proxy']}:8080", headers=headers, timeout=60) as client:
        wait_until(lambda: answers(client))
        yield client


def answers(client: httpx.Client) -> bool:
    try:
        return client.get("/health/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_answers_pass_part_by_part_from_both_gateways_and_both_engines(composed: Composed, http: httpx.Client) -> None:
    body = {"model": MODEL, "prompt": "once", "max_tokens": 200, "ignore_eos": True, "stream": True}

    def parts(number: int) -> int:
        with http.stream("POST", "/v1/completions", json={**body, "prompt": f"{number} once"}) as answer:
            assert answer.status_code == 200
            return sum(1 for _ in answer.iter_raw())

    with ThreadPoolExecutor(8) as pool:
        assert min(pool.map(parts, range(8))) > 20
    for name in ("server", "server-2"):
        as_scraped = {"Authorization": f"Bearer {KEY}", "Host": f"{name}:8000"}
        page = httpx.get(f"http://{composed.address[name]}:8000/metrics", headers=as_scraped).text
        assert re.search(r'^multiflora_http_requests_total\{.*"/v1/completions".*\} [1-9]', page, re.MULTILINE)
    replicas = http.get("/api/v1/replicas").json()["items"]
    assert {row["state"] for row in replicas} == {"ready"}
    assert len(replicas) == 2


def test_a_gateway_that_is_gone_is_passed_over(composed: Composed, http: httpx.Client) -> None:
    composed.processes["server"].kill()
    body = {"model": "sql", "prompt": "once", "max_tokens": 4}
    assert [http.post("/v1/completions", json=body).status_code for _ in range(6)] == [200] * 6


def test_a_client_beyond_its_rate_is_told_so(http: httpx.Client) -> None:
    statuses = {http.get("/v1/models").status_code for _ in range(60)}
    assert statuses == {200, 429}
