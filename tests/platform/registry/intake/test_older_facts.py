"""Versions of an older server's database get the facts that it did not know."""

from __future__ import annotations

from sqlalchemy import update
from tests.platform.registry.house import House, OpenHouse

from multiflora_platform.storage.database import Change
from multiflora_platform.storage.tables import VersionRow


async def facts_of(house: House, number: int) -> dict[str, object]:
    return dict((await house.admin.get(f"/adapters/a/versions/{number}")).json()["facts"])


async def test_a_start_completes_them_from_the_files(open_house: OpenHouse) -> None:
    house = await open_house()
    await house.adapter("a", 1, 2)
    before = [await facts_of(house, number) for number in (1, 2)]
    digests = [resolved.digest for n in (1, 2) if (resolved := house.registry.resolve(f"a@{n}", None))]
    reaches = [house.registry.snapshot.kv_reach(digest) for digest in digests]
    assert [reach.digest for reach in reaches] == [one["kv_digest"] for one in before]

    async def forget(change: Change) -> None:
        await change.session.execute(update(VersionRow).values(facts={"rank": 2}))

    await house.registry.database.write("system", forget)
    for path in (house.registry._artifacts.store.path(digests[1])).iterdir():
        path.unlink()
    await house.close()
    again = await open_house()
    assert await facts_of(again, 1) == before[0]
    assert again.registry.snapshot.kv_reach(digests[0]).digest == before[0]["kv_digest"]
    # What cannot be read is left, and known by all of it.
    assert await facts_of(again, 2) == {"rank": 2}
    assert again.registry.snapshot.kv_reach(digests[1]).digest == digests[1]
