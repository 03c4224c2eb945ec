"""Aliases that are split by hand: both versions are watched, and one that fails more than the other is told."""

from __future__ import annotations

import pytest
from tests.platform.registry.routes.test_rollouts import PATH, start

from multiflora_platform.registry.changes.rollout_observations import RequestOutcome
from multiflora_platform.registry.changes.splits import SplitWatch, chance_of

pytestmark = pytest.mark.sqlite
ALIAS = "/adapters/a/aliases/default"


async def split(house, **shares):
    body = {"split": {number.removeprefix("v"): share for number, share in shares.items()}}
    response = await house.admin.put(ALIAS, json=body, headers={"If-Match": "*"})
    assert response.status_code == 200, response.text
    return house.registry.adapter("a").resolve("default", None).split


async def observed(house):
    return (await house.admin.get(f"{ALIAS}/split")).json()


def ended(house, split, version, ok=0, failed=0):
    for fine in [True] * ok + [False] * failed:
        house.registry.splits.observe(split, version, RequestOutcome(fine, seconds=0.5))


async def told(house):
    await house.registry.splits.close()
    rows = (await house.admin.get("/audit")).json()["items"]
    return [row["detail"] for row in rows if row["action"] == "alias.split_degraded"]


async def test_each_version_of_a_split_is_shown_with_what_it_did(house):
    await house.adapter("a", 1, 2)
    assert await observed(house) == {"since": None, "arms": []}
    assert house.registry.adapter("a").resolve("default", None).split is None
    halved = await split(house, v1=90, v2=10)
    ended(house, halved, 1, ok=3, failed=1)
    found = await observed(house)
    assert found["since"] is not None
    shown = {"requests": 4, "errors": 1, "p50_seconds": 0.5, "p95_seconds": 0.5}
    nothing = {"requests": 0, "errors": 0, "p50_seconds": None, "p95_seconds": None}
    assert found["arms"] == [
        {"version": 1, "percent": 90, "observed": shown, "is_worse": False},
        {"version": 2, "percent": 10, "observed": nothing, "is_worse": False},
    ]
    assert (await house.admin.get("/adapters/a/aliases/none/split")).status_code == 404


async def test_a_version_that_fails_more_than_the_other_is_told_once_until_it_recovers(house):
    await house.adapter("a", 1, 2)
    halved = await split(house, v1=50, v2=50)
    ended(house, halved, 1, ok=60, failed=2)
    ended(house, halved, 2, ok=58, failed=4)
    assert await told(house) == [], "what chance explains is not told"
    ended(house, halved, 2, failed=20)
    (event,) = await told(house)
    assert {**event, "alias": "default", "version": 2} == event
    assert event["error_rate"] > 0.1 > event["others_error_rate"] > 0
    assert [arm["is_worse"] for arm in (await observed(house))["arms"]] == [False, True]
    events = (await house.admin.get("/events")).json()["items"]
    assert [one["type"] for one in events if one["adapter"] == "a"][-1] == "alias.split_degraded"
    (alert,) = house.registry.splits.findings()
    assert (alert.id, alert.severity) == ("split a@default 2", "error")
    ended(house, halved, 2, ok=999)
    assert list(house.registry.splits.findings()) == []
    assert [arm["is_worse"] for arm in (await observed(house))["arms"]] == [False, False]
    ended(house, halved, 2, failed=300)
    assert len(await told(house)) == 2


async def test_what_fails_in_all_versions_alike_is_no_versions_fault(house):
    await house.adapter("a", 1, 2, 3)
    halved = await split(house, v1=40, v2=30, v3=30)
    for _ in range(40):
        for version in (1, 2, 3):
            ended(house, halved, version, ok=1, failed=1)
    assert await told(house) == []


async def test_a_move_begins_anew_and_late_requests_count_for_nothing(house):
    await house.adapter("a", 1, 2)
    first = await split(house, v1=50, v2=50)
    ended(house, first, 1, ok=20)
    ended(house, first, 2, failed=9)
    assert len(list(house.registry.splits.findings())) == len(await told(house)) == 1
    second = await split(house, v1=60, v2=40)
    assert list(house.registry.splits.findings()) == []
    ended(house, second, 1, ok=20)
    third = await split(house, v1=70, v2=30)
    ended(house, second, 2, failed=50)
    ended(house, third, 1, ok=5)
    assert [arm["observed"]["requests"] for arm in (await observed(house))["arms"]] == [5, 0]
    assert len(await told(house)) == 1


async def test_a_rollout_watches_its_own_split(house):
    await start(house, percent=10)
    assert house.registry.adapter("a").resolve("default", None).split is None
    assert (await observed(house))["arms"] == []
    await house.admin.post(f"{PATH}:abort")


async def test_few_splits_are_watched_at_once(house):
    await house.adapter("a", 1, 2)
    watch = SplitWatch(house.registry.database, house.registry._snapshots, most=1)
    first = await split(house, v1=50, v2=50)
    await house.admin.put("/adapters/a/aliases/other", json={"split": {"1": 50, "2": 50}})
    second = house.registry.adapter("a").resolve("other", None).split
    for one in (first, second):
        watch.observe(one, 1, RequestOutcome(True, 0.1))
    assert [watch.view("a", alias).since is None for alias in ("default", "other")] == [True, False]


@pytest.mark.parametrize(
    ("own", "others", "chance"),
    [((3, 3), (0, 20), 1 / 1771), ((0, 5), (3, 5), 1.0), ((2, 4), (1, 4), 0.5), ((150, 1000), (100, 1000), 4.4754e-4)],
)
def test_the_chance_is_that_of_fishers_exact_test(own, others, chance):
    assert chance_of(own, others) == pytest.approx(chance, rel=1e-4)
