"""A rollout's curves: what both versions did since the start, with the bounds, and who started it and why."""

from __future__ import annotations

import pytest
from tests.platform.registry.house import adapter_files
from tests.platform.registry.routes.test_rollouts import PATH, entry, start, until_it_ends

from multiflora_platform.registry.changes.rollout_observations import Observations, RequestOutcome

pytestmark = pytest.mark.sqlite
BOUNDS = {"max_error_rate": 0.1, "max_p95_seconds": 4.0, "max_p95_ratio": 1.5, "min_samples": 2}


def ended(seen, now, stable=(), candidate=()):
    """Requests of both versions, which took so many seconds; None: failed."""
    for arm, requests in ((seen.stable, stable), (seen.candidate, candidate)):
        for seconds in requests:
            arm.outcomes.append(RequestOutcome(seconds is not None, seconds or 0.0))
    seen.note(BOUNDS, now)


def test_each_moment_has_both_versions_and_the_bounds_of_then():
    seen = Observations()
    ended(seen, 100.0, stable=[1.0], candidate=[2.0])
    ended(seen, 100.5, stable=[1.0])  # too soon for a moment of its own
    ended(seen, 103.0, stable=[None, None], candidate=[3.0, None])
    found = seen.timeline({**BOUNDS, "max_p95_seconds": 1.2}, 110.0)
    assert found.at == [100.0, 103.0, 110.0]
    assert found.stable.requests == [1, 4, 4]
    assert found.stable.error_rate == [0.0, 0.5, 0.5]
    assert found.candidate.error_rate == [0.0, pytest.approx(1 / 3), pytest.approx(1 / 3)]
    assert found.candidate.p95_seconds == [2.0, 3.0, 3.0]
    assert found.error_rate_bound == [0.1, 0.6, 0.6]
    assert found.p95_seconds_bound == [4.0, 1.5, 1.2], "relative once the stable version has enough requests"


def test_moments_stay_few_and_reach_from_the_start_to_now():
    seen = Observations()
    for second in range(0, 100_000, 10):
        ended(seen, float(second))
    found = seen.timeline(BOUNDS, 100_000.0)
    assert 40 < len(found.at) <= 122
    assert (found.at[0], found.at[-1]) == (0.0, 100_000.0)
    gaps = {later - earlier for earlier, later in zip(found.at[:-2], found.at[1:-1], strict=True)}
    assert max(gaps) <= 3 * min(gaps)


async def test_the_curves_of_a_rollout_stay_when_it_has_ended(house):
    rollout = await start(house, percent=10, min_samples=3, why="cheaper\nto serve")
    assert (rollout["why"], rollout["created_by"]) == ("cheaper\nto serve", "admin/api-key-1")
    path = f"{PATH}s/{rollout['id']}/timeline"
    assert (await house.admin.get(path)).json()["at"] == []
    for _ in range(2):
        house.registry.rollouts.observe(entry(house), 1, RequestOutcome(ok=True, seconds=0.1))
        house.registry.rollouts.observe(entry(house), 2, RequestOutcome(ok=False, seconds=0.1))
    running = (await house.admin.get(path)).json()
    assert (running["candidate"]["error_rate"][-1], running["error_rate_bound"][-1]) == (1, 0.05)
    house.registry.rollouts.observe(entry(house), 2, RequestOutcome(ok=False, seconds=0.1))
    assert (await until_it_ends(house))["state"] == "rolled_back"
    kept = (await house.admin.get(path)).json()
    assert (kept["candidate"]["requests"][-1], kept["stable"]["requests"][-1]) == (3, 2)
    assert kept == (await house.admin.get(path)).json()
    assert (await house.admin.get(f"{PATH}s/99/timeline")).status_code == 404
    started = [row for row in (await house.admin.get("/audit")).json()["items"] if row["action"] == "rollout.started"]
    assert started[0]["detail"]["why"] == "cheaper\nto serve"


async def test_why_is_for_admins_and_the_owner(house):
    acme, other = await house.tenant("acme"), await house.tenant("other")
    assert (await acme.post("/adapters", json={"name": "a"})).status_code == 201
    for seed in (1, 2):
        assert (await house.upload("a", adapter_files(seed))).status_code == 201
    headers = {"If-Match": await house.etag("a", "default")}
    body = {"candidate": 2, "why": "acme asked for it"}
    assert (await house.admin.post(PATH, json=body, headers=headers)).status_code == 201
    seen = [(await client.get(PATH)).json() for client in (house.admin, acme, other)]
    assert [one["why"] for one in seen] == ["acme asked for it", "acme asked for it", ""]
    assert [one["created_by"] for one in seen] == ["admin/api-key-1", "admin", "admin"]
    assert (await other.get(f"{PATH}s")).json()["items"][0]["why"] == ""
    changed = (await acme.patch(PATH, json={"percent": 5})).json()
    assert (changed["created_by"], changed["why"]) == ("admin", "acme asked for it")
    assert (await acme.post(f"{PATH}:abort")).json()["created_by"] == "admin"


@pytest.mark.parametrize("why", ["x" * 1001, "\0", 3])
async def test_why_is_a_text_within_bounds(house, why):
    await house.adapter("a", 1, 2)
    headers = {"If-Match": await house.etag("a", "default")}
    response = await house.admin.post(PATH, json={"candidate": 2, "why": why}, headers=headers)
    assert (response.status_code, response.json()["errors"][0]["pointer"]) == (400, "/why")
