"""vLLM's call for loading an adapter, over HTTP, for adapters that are kept on the hub or in S3."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.platform.gateway.house import House
from tests.platform.gateway.real_house import real_house
from tests.platform.registry.fake_hub import FakeHub
from tests.platform.registry.fake_s3 import FakeS3
from tests.platform.registry.house import adapter_files, rejected_files

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@pytest.fixture
async def house(make_house: Callable[..., House], tmp_path: Path) -> AsyncIterator[House]:
    async with real_house(make_house, tmp_path) as (house, _):
        yield house


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub and an S3 that have an adapter each, and a broken one."""
    folders = {"sql": adapter_files(1), "broken": rejected_files()}
    objects = {f"models/{folder}/{name}": data for folder, files in folders.items() for name, data in files.items()}
    repositories = {f"org/{name}": files for name, files in {**folders, "sql": adapter_files(2)}.items()}
    with FakeS3(objects) as s3, FakeHub(repositories):
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "known")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield


@pytest.mark.parametrize("path", ["org/sql", "hf://org/sql", "s3://models/sql"])
async def test_an_adapter_is_fetched_served_and_let_go(house: House, places: None, path: str) -> None:
    request = {"lora_name": "mine", "lora_path": path}
    loaded = await house.post(LOAD, request)
    assert (loaded.status_code, loaded.text) == (200, "Success: LoRA adapter 'mine' added successfully.")
    answer = await house.post("/v1/completions", {"model": "mine", "prompt": "a", "max_tokens": 1})
    assert answer.status_code == 200, answer.text
    assert house.engine.requests[-1].adapter_digest is not None
    assert "mine" in [card["id"] for card in (await house.http.get("/v1/models")).json()["data"]]
    assert (await house.post(LOAD, request)).status_code == 400
    assert (await house.post(UNLOAD, {"lora_name": "mine"})).status_code == 200
    assert (await house.post("/v1/completions", {"model": "mine", "prompt": "a"})).status_code == 404


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("org/broken", "rejected"),
        ("s3://models/broken", "rejected"),
        ("org/nothing", "org/nothing"),
        ("s3://models/nothing", "nothing"),
        ("s3://", "s3://"),
        ("hf://../x", "hf://"),
        ("http://example.com/a", "http"),
    ],
)
async def test_what_cannot_be_fetched_is_the_clients_fault_and_leaves_no_model(
    house: House, places: None, path: str, words: str
) -> None:
    refused = await house.post(LOAD, {"lora_name": "mine", "lora_path": path})
    assert refused.status_code in (400, 404), refused.text
    assert words in refused.json()["error"]["message"].lower()
    assert "mine" not in [card["id"] for card in (await house.http.get("/v1/models")).json()["data"]]
