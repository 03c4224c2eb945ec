"""What operators see: adapters arriving and leaving at run time, crashes, restarts, overload and shutdown."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.e2e.conftest import ONE_THREAD, Server, serving

pytestmark = pytest.mark.slow

DEMO = Path(__file__).parents[2] / "examples" / "demo"
BASE = "multiflora-demo"
ADAPTER = json.loads((DEMO / "adapters.json").read_text(encoding="utf-8"))[0]
FILES = ("adapter_config.json", "adapter_model.safetensors")
LONG = {"prompt": "once", "max_tokens": 1000, "ignore_eos": True, "temperature": 0, "stream": True}


def complete(server: Any, model: str, prompt: str = ADAPTER["demo_prompt"]) -> str:
    with server.openai() as client:
        answer = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": prompt}], temperature=0, max_tokens=60
        )
    return answer.choices[0].message.content or ""


def upload(http: httpx.Client, name: str, folder: Path) -> httpx.Response:
    parts = [("files", (file, (folder / file).read_bytes())) for file in FILES]
    return http.post(f"/api/v1/adapters/{name}/versions", files=parts)


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_an_adapter_registered_over_rest_answers_seconds_later_without_its_source(demo: Any, tmp_path: Path) -> None:
    source = shutil.copytree(DEMO / "adapters" / ADAPTER["name"], tmp_path / "source")
    with demo.http() as http:
        assert http.post("/api/v1/adapters", json={"name": "newcomer"}).status_code == 201
        answer = upload(http, "newcomer", source)
        assert answer.status_code == 201, answer.text
        assert answer.json()["state"] == "ready"
        shutil.rmtree(source)
        assert complete(demo, "newcomer") == complete(demo, ADAPTER["name"])
        assert http.delete("/api/v1/adapters/newcomer").is_success
    with pytest.raises(openai.NotFoundError):
        complete(demo, "newcomer")


def test_a_broken_adapter_is_refused_with_its_rows(demo: Any, tmp_path: Path) -> None:
    source = shutil.copytree(DEMO / "adapters" / ADAPTER["name"], tmp_path / "source")
    with (source / FILES[1]).open("r+b") as file:
        file.truncate(file.seek(0, os.SEEK_END) // 2)
    with demo.http() as http:
        assert http.post("/api/v1/adapters", json={"name": "broken"}).status_code == 201
        answer = upload(http, "broken", source)
        assert answer.status_code == 422
        assert any(row["severity"] == "error" and row["hint"] for row in answer.json()["rows"])
        assert http.get("/api/v1/adapters/broken/versions/1").json()["state"] == "rejected"
        assert http.delete("/api/v1/adapters/broken").is_success


@pytest.fixture(scope="module")
def open_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whatever is in it, `server` serves at its first use."""
    return tmp_path_factory.mktemp("open")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, open_folder: Path) -> Iterator[Server]:
    """For tests that leave it running, with names of their own."""
    options = ("--allow-source-root", str(DEMO), "--adapter-resolver", f"dir:{open_folder}")
    with serving(tmp_path_factory.mktemp("data"), *options, *ONE_THREAD) as server:
        yield server


def test_vllms_own_calls_load_and_unload(server: Server) -> None:
    folder = str(DEMO / "adapters" / ADAPTER["name"])
    with server.http() as http:
        loaded = http.post("/v1/load_lora_adapter", json={"lora_name": "mine", "lora_path": folder})
        assert (loaded.status_code, loaded.text) == (200, "Success: LoRA adapter 'mine' added successfully.")
        assert complete(server, "mine") == complete(server, ADAPTER["name"])
        assert http.post("/v1/load_lora_adapter", json={"lora_name": "mine", "lora_path": folder}).status_code == 400
        outside = http.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": "/etc"})
        assert outside.status_code in (400, 404)
        unloaded = http.post("/v1/unload_lora_adapter", json={"lora_name": "mine"})
        assert (unloaded.status_code, unloaded.text) == (200, "Success: LoRA adapter 'mine' removed successfully.")
        assert http.post("/v1/unload_lora_adapter", json={"lora_name": "mine"}).status_code == 404


def test_a_folder_s_adapters_are_served_at_their_first_use(server: Server, open_folder: Path) -> None:
    shutil.copytree(DEMO / "adapters" / ADAPTER["name"], open_folder / "brought")
    with ThreadPoolExecutor(16) as pool:
        answers = set(pool.map(lambda _: complete(server, "brought"), range(16)))
    assert answers == {complete(server, ADAPTER["name"])}
    with server.http() as http:
        assert len(http.get("/api/v1/adapters/brought/versions").json()["items"]) == 1
        assert "brought" in [card["id"] for card in http.get("/v1/models").json()["data"]]
    with pytest.raises(openai.NotFoundError):
        complete(server, "../mine")


def test_more_adapters_than_slots_wait_their_turn(serve: Callable[..., Any]) -> None:
    rank = max(
        json.loads((folder / FILES[0]).read_text(encoding="utf-8"))["r"] for folder in (DEMO / "adapters").iterdir()
    )
    server = serve("--max-loras", "1", "--max-lora-rank", str(rank), "--max-cpu-loras", "2")
    names = [folder.name for folder in (DEMO / "adapters").iterdir()]
    expected = {name: complete(server, name) for name in names}
    with ThreadPoolExecutor(24) as pool:
        results = list(pool.map(lambda name: (name, complete(server, name)), names * 6))
    assert all(expected[name] == text for name, text in results)


def test_a_killed_engine_fails_its_streams_and_comes_back(server: Server) -> None:
    before = complete(server, ADAPTER["name"])
    with server.http() as http:
        pid = http.get("/api/v1/replicas").json()["items"][0]["pid"]
        with http.stream("POST", "/v1/completions", json={"model": BASE, **LONG}) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("data: {")
            os.kill(pid, signal.SIGKILL)
            frames = [line for line in lines if line]
        assert json.loads(frames[-1].removeprefix("data: "))["error"]["code"] == "engine_dead"
        wait_until(lambda: http.get("/health/ready").status_code == 200)
    assert complete(server, ADAPTER["name"]) == before


def test_a_killed_server_leaves_no_engine_and_loses_nothing(serve: Callable[..., Any]) -> None:
    server = serve()
    with server.http() as http:
        assert http.post("/api/v1/adapters", json={"name": "kept", "tags": ["a"]}).status_code == 201
        assert upload(http, "kept", DEMO / "adapters" / ADAPTER["name"]).status_code == 201
        pid = http.get("/api/v1/replicas").json()["items"][0]["pid"]
    server.process.kill()
    server.process.wait()
    wait_until(lambda: not _alive(pid), 10)
    again = serve()
    assert complete(again, "kept") == complete(again, ADAPTER["name"])


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        return stat.read().rsplit(")", 1)[1].split()[0] != "Z"


def test_overload_is_a_429_with_retry_after(serve: Callable[..., Any]) -> None:
    server = serve("--max-num-seqs", "1", "--max-waiting", "2")
    body = {"model": BASE, **LONG, "max_tokens": 200, "stream": False}
    with server.http() as http, ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: http.post("/v1/completions", json=body), range(10)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert refused
    assert len(refused) < 10
    for answer in refused:
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0


def test_a_deadline_is_a_504(demo: Any) -> None:
    with demo.http() as http:
        answer = http.post(
            "/v1/completions",
            json={"model": BASE, **LONG, "stream": False, "max_tokens": 1500},
            headers={"X-Request-Timeout": "0.05"},
        )
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "deadline_exceeded"


def test_sigterm_lets_streams_end_and_refuses_new_requests(serve: Callable[..., Any]) -> None:
    server = serve("--drain-timeout", "60")
    body = {"model": BASE, **LONG, "max_tokens": 300}
    with server.http() as http, http.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{server.url}/health/ready").status_code == 503)
        refused = httpx.post(
            f"{server.url}/v1/completions", json={"model": BASE, "prompt": "x"}, headers=server.headers
        )
        assert refused.status_code == 503
        frames = [line for line in lines if line]
    assert frames[-1] == "data: [DONE]"
    assert server.process.wait(30) == 0


def test_a_port_in_use_is_a_configuration_error(demo: Any, tmp_path: Path) -> None:
    from multiflora_platform.cli.main import main

    port = demo.url.rsplit(":", 1)[1]
    assert main(["serve", "--port", port, "--data-dir", str(tmp_path)]) == 3
