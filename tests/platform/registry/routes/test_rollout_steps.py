"""Rollouts that go through steps by themselves, and changes while they do: what counts is how a rollout is now."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import update
from tests.platform.registry.routes.test_rollouts import PATH, entry, start, target, until_it_ends

from multiflora_platform.registry.changes.rollout_observations import RequestOutcome
from multiflora_platform.storage.tables import RolloutRow

pytestmark = pytest.mark.sqlite
AT_ONCE = {"step_seconds": 1e-9, "min_samples": 3}


async def until_percent(house, percent):
    async with asyncio.timeout(30):
        while entry(house) is not None and entry(house).percent != percent:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return entry(house)


def answered(house, count, admitted=None, ok=True):
    """So many of the candidate's requests went well, or did not. admitted: the rollout when they began; None: now."""
    for _ in range(count):
        house.registry.rollouts.observe(admitted or entry(house), 2, RequestOutcome(ok, seconds=0.1))


async def change(house, **fields):
    response = await house.admin.patch(PATH, json=fields)
    assert response.status_code == 200, response.text
    return response.json()


async def write(house, **values):
    """Into the rollout's row, as another process does; this one has not seen it yet."""

    async def work(writing):
        await writing.session.execute(update(RolloutRow).values(**values))

    await house.registry.database.write("test", work)


async def decided(house):
    """The rollout, once what was decided about it is executed."""
    await house.registry.rollouts.close()
    return (await house.admin.get(PATH)).json()


async def test_a_rollout_goes_through_its_steps_by_itself(house):
    rollout = await start(house, steps=[1, 30], step_seconds=0.05, min_samples=3)
    assert (rollout["percent"], rollout["steps"]) == (1, [1, 30])
    answered(house, 2)
    await asyncio.sleep(0.1)
    assert entry(house).percent == 1, "it has had too few requests"
    answered(house, 1)
    assert (await until_percent(house, 30)).percent == 30
    assert await target(house) == {"split": {"1": 70, "2": 30}}
    answered(house, 2)
    assert entry(house).percent == 30, "each step needs requests of its own"
    answered(house, 1)
    ended = await until_it_ends(house)
    assert (ended["state"], ended["reason"]) == ("promoted", "went through all steps")
    assert await target(house) == {"version": 2}
    types = [item["type"] for item in (await house.admin.get("/events")).json()["items"]]
    assert types.count("rollout.stepped") == 1
    assert (await house.admin.post("/adapters/a/aliases/default:rollback")).status_code == 200
    assert await target(house) == {"version": 1}


async def test_steps_end_at_a_bound_and_by_hand(house):
    await start(house, steps=[1, 30], step_seconds=3600, min_samples=2)
    answered(house, 3)
    changed = (await house.admin.patch(PATH, json={"steps": [], "percent": 20})).json()
    assert (changed["steps"], changed["percent"]) == ([], 20)
    assert (await house.admin.patch(PATH, json={"steps": [5, 2]})).status_code == 400
    assert (await house.admin.patch(PATH, json={"steps": [30], "step_seconds": 0.01})).status_code == 200
    for _ in range(3):
        house.registry.rollouts.observe(entry(house), 2, RequestOutcome(ok=False, seconds=0.1))
    assert (await until_it_ends(house))["state"] == "rolled_back"
    headers = {"If-Match": await house.etag("a", "default")}
    for wrong in ({"steps": [10, 10]}, {"steps": [100]}, {"steps": [0]}, {"steps": [1], "percent": 5}, {"steps": None}):
        response = await house.admin.post(PATH, json={"candidate": 2, **wrong}, headers=headers)
        assert response.status_code == 400, wrong


async def test_requests_that_began_before_a_change_are_judged_by_what_is_now(house):
    await start(house, steps=[1], **AT_ONCE)
    before = entry(house)
    await change(house, steps=[])
    answered(house, 5, before)
    assert (await decided(house))["state"] == "running", "it goes no further by itself"
    await change(house, max_error_rate=1)
    answered(house, 20, before, ok=False)
    assert (await decided(house))["state"] == "running", "the bound was lifted"
    await change(house, max_error_rate=0.1)
    answered(house, 1, before)
    assert (await decided(house))["state"] == "rolled_back"


async def test_a_request_counts_for_the_share_at_which_it_was_admitted(house):
    await start(house, steps=[1, 30], **AT_ONCE)
    before = entry(house)
    await change(house, percent=5)
    for _ in range(3):
        assert entry(house).percent == 5
        answered(house, 1)
        answered(house, 1, before)
    assert (await until_percent(house, 30)).percent == 30


@pytest.mark.parametrize(("ok", "changed"), [(True, {"steps": []}), (False, {"max_error_rate": 1.0})])
async def test_what_another_server_changed_meanwhile_is_not_decided_by_the_old_bounds(house, ok, changed):
    await start(house, steps=[1], **AT_ONCE)
    await write(house, bounds={**entry(house).bounds, **changed})
    answered(house, 3, ok=ok)
    assert (await decided(house))["state"] == "running"


async def test_a_rollout_from_before_there_were_steps_may_be_given_some(house):
    await start(house, percent=1)
    old = {name: value for name, value in entry(house).bounds.items() if not name.startswith("step")}
    await write(house, bounds=old)
    changed = await change(house, steps=[1, 30], min_samples=3)
    assert changed["step_seconds"] == 300.0
    answered(house, 3)
    assert (await decided(house))["percent"] == 1, "the time is not over"


@pytest.mark.parametrize("how", ["change", "move"])
async def test_what_it_waited_for_is_forgotten_with_the_wait(house, how):
    await start(house, steps=[1], **AT_ONCE)
    await write(house, reason="waits: Version 2 has no score yet")
    if how == "change":
        await change(house, steps=[])
    else:
        await house.admin.put("/adapters/a/aliases/default", json={"version": 3}, headers={"If-Match": "*"})
    assert (await decided(house))["reason"] is None


async def test_a_step_that_became_shorter_is_made_when_its_time_is_over(house):
    await start(house, steps=[1, 30], step_seconds=3600, min_samples=1)
    answered(house, 1)
    await change(house, step_seconds=0.3)
    answered(house, 1)
    assert (await until_percent(house, 30)).percent == 30
