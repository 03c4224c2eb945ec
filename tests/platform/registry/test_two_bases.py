"""Adapters of several base models: each belongs to the one that it names or fits, and is served while that one is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from tests.platform.registry.house import SITE, Files, House, OpenHouse, adapter_files, base_model

from multiflora_adapters.base_model import BaseModel, Site
from multiflora_engine.protocol.messages import AdapterResult
from multiflora_platform.registry.errors import AdapterExists
from multiflora_platform.registry.serving.base_links import BaseLink
from multiflora_platform.registry.serving.engine_link import EngineLink
from multiflora_platform.web.problems import Unavailable

WIDE = BaseModel("wide", "LlamaForCausalLM", "c" * 64, 1, {SITE: Site(SITE, 12, 12, 0)})
TWIN = BaseModel("twin", "LlamaForCausalLM", "d" * 64, 1, base_model().sites)


class Recorded:
    """An engine that is ready and does as it is told."""

    state = "ready"

    def __init__(self) -> None:
        self.commands: list[tuple[str, str]] = []

    def addressed(self, replica: str | None) -> Recorded:
        return self

    async def adapter(self, action: str, digest: str) -> AdapterResult:
        self.commands.append((action, digest))
        return AdapterResult(1, None, 0.5)


def wide_files(**config: Any) -> Files:
    files = adapter_files(1, **config)
    tensors = {
        f"base_model.model.{SITE}.lora_A.weight": np.ones((2, 12), np.float32),
        f"base_model.model.{SITE}.lora_B.weight": np.ones((12, 2), np.float32),
    }
    return {**files, "adapter_model.safetensors": save(tensors)}


@pytest.fixture
async def both(open_house: OpenHouse) -> tuple[House, Recorded, Recorded]:
    narrow, wide = Recorded(), Recorded()
    house = await open_house(engine=narrow)
    await house.registry.add_base(BaseLink(WIDE, EngineLink(wide), names=("org/wide-1b",)), ["wide"])  # type: ignore[arg-type]
    return house, narrow, wide


async def upload(house: House, name: str, files: Files) -> Any:
    assert (await house.admin.post("/adapters", json={"name": name})).status_code == 201
    return await house.upload(name, files)


async def test_an_adapter_belongs_to_the_base_that_it_fits_and_is_probed_there(
    both: tuple[House, Recorded, Recorded],
) -> None:
    house, narrow, wide = both
    first, second = await upload(house, "a", adapter_files()), await upload(house, "w", wide_files())
    assert (first.json()["base_digest"], second.json()["base_digest"]) == ("b" * 64, "c" * 64)
    found = [house.registry.resolve(name, None) for name in ("a", "w")]
    assert [one and one.base_digest for one in found] == ["b" * 64, "c" * 64]
    assert [one.base_digest for one in house.registry.served()] == ["b" * 64, "c" * 64]
    assert [action for action, _ in narrow.commands] == [action for action, _ in wide.commands] == ["probe"]
    await house.admin.post("/adapters/w:pin")
    assert wide.commands[-1] == ("pin", second.json()["digest"])
    assert house.registry.snapshot.digests_on("c" * 64) == {second.json()["digest"]}


@pytest.mark.parametrize("named", ["wide", "somebody/WIDE", "/models/wide-1b/", "org/wide-1b"])
async def test_one_that_names_a_base_is_rejected_where_it_does_not_fit_that_base(
    both: tuple[House, Recorded, Recorded], named: str
) -> None:
    """Though it fits the other: it would be another model's answers under this one's name."""
    house, *_ = both
    refused = await upload(house, "a", adapter_files(base_model_name_or_path=named))
    assert refused.status_code == 422
    assert any(row["severity"] == "error" for row in refused.json()["rows"])
    assert house.registry.resolve("a", None) is None


async def test_of_two_bases_that_it_fits_the_one_that_it_names_gets_it(open_house: OpenHouse) -> None:
    house = await open_house()
    await house.registry.add_base(BaseLink(TWIN), ["twin"])
    named = await upload(house, "a", adapter_files(base_model_name_or_path="org/twin"))
    unnamed = await upload(house, "b", adapter_files())
    assert (named.json()["base_digest"], unnamed.json()["base_digest"]) == ("d" * 64, "b" * 64)


async def test_adapters_of_a_base_that_is_gone_stay_registered_and_come_back_with_it(
    both: tuple[House, Recorded, Recorded],
) -> None:
    house, _, wide = both
    await upload(house, "w", wide_files())
    await house.registry.remove_base("c" * 64, ["wide"])
    assert house.registry.resolve("w", None) is None
    why = house.registry.why_missing("w", lambda name, owner: True, ["tiny"])
    assert why is not None
    assert "of another base model" in why
    shown = (await house.admin.get("/adapters/w")).json()
    assert shown["aliases"] == {"default": {"version": 1}}
    told = len(wide.commands)
    assert (await house.admin.post("/adapters/w:load")).status_code == 404
    assert len(wide.commands) == told
    await house.registry.add_base(BaseLink(WIDE, EngineLink(wide)), ["wide"])  # type: ignore[arg-type]
    found = house.registry.resolve("w", None)
    assert found is not None
    assert found.base_digest == "c" * 64


async def test_a_base_that_could_not_be_read_into_the_registry_leaves_nothing(
    open_house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = await open_house()

    async def away() -> None:
        raise Unavailable("The database is away.")

    with monkeypatch.context() as patched:
        patched.setattr(house.registry._snapshots, "load_all", away)
        with pytest.raises(Unavailable):
            await house.registry.add_base(BaseLink(TWIN), ["twin"])
    assert (await house.admin.post("/adapters", json={"name": "twin"})).status_code == 201
    made = await upload(house, "a", adapter_files(base_model_name_or_path="org/twin"))
    assert made.json()["base_digest"] == "b" * 64


async def test_names_of_bases_and_adapters_are_of_one_kind(both: tuple[House, Recorded, Recorded]) -> None:
    house, *_ = both
    assert (await house.admin.post("/adapters", json={"name": "wide"})).status_code == 409
    assert (await house.admin.post("/adapters", json={"name": "mine"})).status_code == 201
    with pytest.raises(AdapterExists, match="'mine' is an adapter's name"):
        await house.registry.add_base(BaseLink(TWIN), ["mine"])
    await house.registry.remove_base("c" * 64, ["wide"])
    assert (await house.admin.post("/adapters", json={"name": "wide"})).status_code == 201
