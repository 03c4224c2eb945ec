"""Prompts that a rollout's two versions answered differently: kept within bounds, shown to whom they belong."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from tests.platform.registry.house import House, OpenHouse
from tests.platform.registry.routes.test_rollouts import PATH, entry, start

from multiflora_platform.registry.changes.rollout_pairs import AskedPrompt, KeptPairs

pytestmark = pytest.mark.sqlite


@pytest.fixture
async def house(open_house: OpenHouse) -> House:
    return await open_house(pairs=KeptPairs(most_pairs=3, most_bytes=2000))


def differ(house: House, candidate: str, tenant: str | None = None, stable: str = "yes", rollout: Any = None) -> None:
    asked = asked_by(tenant)
    house.registry.rollouts.observe_pair(rollout or entry(house), lambda: asked, stable.encode(), candidate.encode())


def asked_by(tenant: str | None) -> AskedPrompt:
    return AskedPrompt(tenant, {"prompt": "Is it?"}, 16, [], lambda ids: bytes(ids).decode())


async def pairs(client: Any, rollout: int = 1, **params: Any) -> dict[str, Any]:
    response = await client.get(f"{PATH}s/{rollout}/pairs", params=params)
    assert response.status_code == 200, response.text
    return dict(response.json())


async def test_pairs_are_read_newest_first_and_only_those_that_differ(house: House) -> None:
    await start(house, shadow_percent=100)
    for answer in ("no", "yes", "no", "not"):
        differ(house, answer)
    page = await pairs(house.admin, limit=1)
    shown = {"prompt": "Is it?", "messages": None, "stable": "yes", "candidate": "not", "agreement": 0}
    assert page["items"][0] | shown == page["items"][0]
    rest = await pairs(house.admin, limit=1, page_token=page["next_page_token"])
    assert [one["candidate"] for one in rest["items"]] == ["no"]
    assert (rest["next_page_token"], rest["kept"]) == (None, True)


async def test_a_tenant_sees_the_pairs_of_its_own_requests(house: House) -> None:
    await start(house, shadow_percent=100)
    acme, other = await house.tenant("acme"), await house.tenant("other")
    differ(house, "no", "acme")
    differ(house, "not", None)
    assert [one["tenant"] for one in (await pairs(house.admin))["items"]] == [None, "acme"]
    assert [one["candidate"] for one in (await pairs(acme))["items"]] == ["no"]
    assert (await pairs(other))["items"] == []


async def test_pairs_are_bounded_in_number_and_bytes(house: House) -> None:
    await start(house, shadow_percent=100)
    for number in range(5):
        differ(house, f"no {number}")
    assert [one["candidate"] for one in (await pairs(house.admin))["items"]] == ["no 4", "no 3", "no 2"]
    differ(house, "n" * 1700)
    assert [len(one["candidate"]) for one in (await pairs(house.admin))["items"]] == [1700]
    differ(house, "n" * 3000)
    assert (await pairs(house.admin))["items"] == []
    kept = KeptPairs()
    for number, answer in enumerate(("no", "n" * 300_000, "n" * 100_000)):
        kept.add(dataclasses.replace(entry(house), id=number), asked_by(None), b"yes", answer.encode())
    assert [len(kept.page(number, None, 99, 9)) for number in range(3)] == [1, 0, 1], "one is too long by itself"


async def test_pairs_outlive_their_rollout_and_go_with_their_adapter(house: House) -> None:
    await start(house, shadow_percent=100)
    running = entry(house)
    differ(house, "no")
    await house.admin.post(f"{PATH}:abort")
    differ(house, "too late", rollout=running)
    assert [one["candidate"] for one in (await pairs(house.admin))["items"]] == ["no"]
    kept = house.registry.rollouts.pairs
    assert kept is not None
    kept.add(dataclasses.replace(running, id=2, adapter="b"), asked_by(None), b"x", b"y")
    await house.admin.delete("/adapters/a")
    assert (kept.page(1, None, 99, 9), len(kept.page(2, None, 99, 9))) == ([], 1)


async def test_where_texts_are_not_kept_that_is_said(open_house: OpenHouse) -> None:
    house = await open_house()
    await start(house, shadow_percent=100)
    differ(house, "no")
    assert await pairs(house.admin) == {"kept": False, "items": [], "next_page_token": None}
    for missing in ("2", "x", "9" * 30):
        assert (await house.admin.get(f"{PATH}s/{missing}/pairs")).status_code == 404
    assert (await house.admin.get("/adapters/a/aliases/other/rollouts/1/pairs")).status_code == 404


async def test_an_adapter_that_another_process_deletes_takes_its_pairs(house: House, open_house: OpenHouse) -> None:
    await start(house, shadow_percent=100)
    differ(house, "no")
    other = await open_house()
    assert (await other.admin.delete("/adapters/a")).status_code == 204
    kept = house.registry.rollouts.pairs
    assert kept is not None
    assert len(kept.page(1, None, 99, 9)) == 1
    while await house.follower.catch_up():
        pass
    assert kept.page(1, None, 99, 9) == []
