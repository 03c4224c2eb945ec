"""Two gateways and two engines, each with a folder of its own, on one PostgreSQL: as on four hosts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import zmq
from tests.e2e.conftest import ONE_THREAD, Server, serving
from tests.e2e.test_base_models import Tiny, tiny
from tests.e2e.test_lifecycle import upload, wait_until
from tests.engine.process.test_lines import free_port
from tests.platform.registry.postgres import running

from multiflora_platform.demo import demo_folder
from multiflora_platform.storage.migrations import upgrade

__all__ = ["tiny"]
pytestmark = pytest.mark.slow

PROMPT = "the quick brown fox jumps over the lazy dog"


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


@dataclass
class Site(Gateways):
    """another_engine: runs one more, of a model, with further options. mirrors: where the second gateway is asked for
    what the caches hold, over ZeroMQ; empty where it is not."""

    engines: list[subprocess.Popen[str]]
    another_engine: Callable[..., AbstractContextManager[subprocess.Popen[str]]]
    mirrors: str = ""


@contextmanager
def engine(arguments: list[str], output: list[str], within: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """within: as `serving` has it."""
    command = [*within, sys.executable, "-m", "multiflora", "engine", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: output.extend(process.stdout or ()), daemon=True)
    reader.start()
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        reader.join(10)
        process.stdout.close()


@pytest.fixture(scope="module")
def site(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    secret = folder / "secret"
    secret.write_text("5e" * 32, encoding="ascii")
    with ExitStack() as stack:
        postgres = stack.enter_context(running())
        if postgres is None:
            pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
        url = postgres.create()
        upgrade(url)
        shared = ["--database-url", url, "--secret-file", str(secret)]
        of_the_group = (str(tiny.base), "--group", "site")
        output: list[str] = []
        numbers = count()

        def another_engine(*options: str) -> AbstractContextManager[subprocess.Popen[str]]:
            own = ["--listen", f"tcp://127.0.0.1:{free_port()}", "--data-dir", str(folder / f"engine-{next(numbers)}")]
            return engine([*options, *shared, *own, "--kv-cache-memory", "4000000", *ONE_THREAD], output)

        engines = [stack.enter_context(another_engine(*of_the_group)) for _ in range(2)]
        entry = ("multiflora", "gateway")
        mirrors = f"ipc://{folder}/asked"
        events = ["--cache-events-zmq", f"ipc://{folder}/heard", "--cache-events-replay-zmq", mirrors]
        gateways = [
            stack.enter_context(serving(folder / f"gateway-{number}", *of_the_group, *shared, *further, entry=entry))
            for number, further in enumerate(([], events))
        ]
        site = Site(gateways, engines, another_engine, mirrors)
        wait_until(lambda: [len(seen) for seen in site.ready()] == [2, 2])
        yield site


def complete(http: httpx.Client, model: str, length: int, prompt: str = PROMPT, **more: Any) -> Any:
    body = {"model": model, "prompt": prompt, "max_tokens": length, "temperature": 0, "ignore_eos": True, **more}
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def cached(answer: Any) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_what_is_uploaded_at_one_gateway_is_served_at_the_other_by_all_engines(site: Site, tiny: Tiny) -> None:
    one, two = (gateway.http() for gateway in site.gateways)
    with one, two:
        assert one.post("/api/v1/adapters", json={"name": "poet"}).status_code == 201
        assert upload(one, "poet", tiny.adapter).status_code == 201
        wait_until(lambda: two.get("/v1/models/poet").status_code == 200)
        assert two.post("/api/v1/adapters/poet:load").is_success, "both engines fetch its files from the other gateway"
        rows = [{a["residency"] for a in row["adapters"]} for row in site.replicas(1)]
        assert rows == [{"slot"}] * 2
        for http in (one, two):
            for model, adapted in (("tiny-base", False), ("poet", True)):
                text = complete(http, model, 12)["choices"][0]["text"]
                assert text == tiny.answer(PROMPT, 12, adapted=adapted)
    for gateway in site.gateways:
        maps = Path(f"/proc/{gateway.process.pid}/maps").read_text(encoding="utf-8")
        assert "libtorch" not in maps


def test_a_tenants_cache_is_found_from_both_gateways_and_never_by_another_tenant(site: Site) -> None:
    with site.gateways[0].http() as http:
        keys = {}
        for tenant in ("acme", "globex"):
            assert http.post("/api/v1/tenants", json={"name": tenant}).status_code == 201
            body = {"name": tenant, "role": "tenant", "tenant": tenant}
            keys[tenant] = http.post("/api/v1/keys", json=body).json()["key"]

    def ask(gateway: int, tenant: str) -> int:
        server = site.gateways[gateway]
        with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {keys[tenant]}"}, timeout=60) as http:
            return cached(complete(http, "tiny-base", 1, "a long document " * 8))

    with site.gateways[1].http() as http:
        wait_until(lambda: http.get("/v1/models", headers={"Authorization": f"Bearer {keys['globex']}"}).is_success)
    assert ask(0, "acme") == 0
    assert ask(1, "acme") > 0, "the other gateway knows which engine has it"
    assert ask(1, "globex") == 0


def test_a_gateway_mirrors_the_caches_of_all_its_engines(site: Site) -> None:
    """Those in which the other one's requests are, too."""
    with site.gateways[0].http() as http:
        complete(http, "tiny-base", 1, "a text to be mirrored " * 8)
    with site.gateways[1].http() as http, zmq.Context() as context, context.socket(zmq.DEALER) as mirror:
        mirror.linger, mirror.rcvtimeo = 0, 60_000
        mirror.connect(site.mirrors)
        held = {}
        for id in sorted(site.ready()[1]):
            events = {"replica": id, "snapshot": True}
            held[id] = hashes_of(http.get("/api/v1/cache/events", params=events).json()["items"])
            mirror.send_multipart([b"", bytes(8), f"site/{id}".encode()])
            told = []
            while event := mirror.recv_multipart()[2]:
                told.append(json.loads(event))
            assert hashes_of(told) == held[id]
    assert any(held.values())


def hashes_of(events: list[Any]) -> set[str]:
    assert events[0]["type"] == "cleared"
    assert {event["type"] for event in events[1:]} <= {"stored"}
    return {hash for event in events for hash in event["hashes"]}


def under_load(site: Gateways, event: Callable[[], None]) -> tuple[list[int], list[str]]:
    """Statuses of requests of one token, and how streams ended that had begun before the event."""

    def short(number: int) -> int:
        with site.gateways[number % 2].http() as http:
            body = {"model": "tiny-base", "prompt": f"{number} {PROMPT}", "max_tokens": 1}
            return http.post("/v1/completions", json=body).status_code

    begun = threading.Barrier(5)

    def stream(number: int) -> str:
        body = {"model": "tiny-base", "prompt": PROMPT, "max_tokens": 300, "ignore_eos": True, "stream": True}
        with site.gateways[number % 2].http() as http, http.stream("POST", "/v1/completions", json=body) as answer:
            lines = (line.removeprefix("data: ") for line in answer.iter_lines() if line)
            next(lines)
            begun.wait(60)
            last = list(lines)[-1]
        return last if last == "[DONE]" else str(json.loads(last)["error"]["code"])

    with ThreadPoolExecutor(12) as pool:
        streams = [pool.submit(stream, number) for number in range(4)]
        begun.wait(60)
        first = [pool.submit(short, number) for number in range(10)]
        event()
        later = [pool.submit(short, number) for number in range(10, 40)]
        return [one.result() for one in (*first, *later)], [one.result() for one in streams]


def test_a_killed_engine_costs_only_streams_that_had_begun(site: Site) -> None:
    def kill() -> None:
        (child,) = psutil.Process(site.engines[0].pid).children()
        child.kill()

    statuses, ends = under_load(site, kill)
    assert set(statuses) == {200}
    assert set(ends) <= {"[DONE]", "engine_dead"}
    wait_until(lambda: [len(seen) for seen in site.ready()] == [2, 2])


def test_an_engine_that_is_told_to_end_fails_nothing_and_leaves(site: Site) -> None:
    statuses, ends = under_load(site, lambda: site.engines[1].send_signal(signal.SIGTERM))
    assert set(statuses) == {200}
    assert set(ends) == {"[DONE]"}
    assert site.engines[1].wait(60) == 0
    wait_until(lambda: [len(site.replicas(number)) for number in (0, 1)] == [1, 1])


def state_of(http: httpx.Client, model: str) -> str | None:
    """None until its files were read, and when it is gone."""
    answer = http.get(f"/api/v1/models/{model}")
    return answer.json()["state"] if answer.is_success and answer.json()["digest"] else None


def test_one_more_base_model_is_served_by_all_gateways_with_engines_of_its_own(site: Site) -> None:
    """It is asked for at one gateway and unloaded at the other; both use the one engine of its group."""
    demo = demo_folder() / "base"
    one, two = (gateway.http() for gateway in site.gateways)

    with one, two:
        assert one.post("/api/v1/models", json={"name": "second", "source": str(demo)}).status_code == 202
        wait_until(lambda: [state_of(http, "second") for http in (one, two)] == ["loading"] * 2)
        early = two.post("/v1/completions", json={"model": "second", "prompt": "x", "max_tokens": 1})
        assert (early.status_code, early.json()["error"]["code"]) == (503, "engine_unavailable")
        with site.another_engine(str(demo), "--group", "second"):
            wait_until(lambda: [state_of(http, "second") for http in (one, two)] == ["ready"] * 2)
            texts = {complete(http, "second", 8)["choices"][0]["text"] for http in (one, two)}
            assert len(texts) == 1
            assert texts != {complete(one, "tiny-base", 8)["choices"][0]["text"]}
            assert two.delete("/api/v1/models/second").status_code == 204
            wait_until(lambda: state_of(one, "second") is None)
            assert one.post("/v1/completions", json={"model": "second", "prompt": "x"}).status_code == 404
        assert complete(one, "tiny-base", 1)["choices"]
