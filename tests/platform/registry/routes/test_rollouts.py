"""Rollouts: shares that move, bounds that roll back by themselves, and what else ends them; protected aliases."""

from __future__ import annotations

import asyncio

import pytest
from tests.platform.registry.house import adapter_files
from tests.platform.registry.routes.test_operations import FakeEngine

from multiflora_platform.registry.changes.rollout_evidence import RolloutEvidence
from multiflora_platform.registry.changes.rollout_observations import (
    Arm,
    Observations,
    RequestOutcome,
    agreement,
)
from multiflora_platform.registry.snapshot.snapshot import RolloutEntry

pytestmark = pytest.mark.sqlite

PATH = "/adapters/a/aliases/default/rollout"


async def start(house, **body):
    await house.adapter("a", 1, 2, 3)
    headers = {"If-Match": await house.etag("a", "default")}
    response = await house.admin.post(PATH, json={"candidate": 2, **body}, headers=headers)
    assert response.status_code == 201, response.text
    return response.json()


async def target(house):
    return (await house.admin.get("/adapters/a")).json()["aliases"]["default"]


def entry(house):
    return house.registry.adapter("a").aliases["default"].rollout


async def until_it_ends(house):
    async with asyncio.timeout(30):
        while (await house.admin.get(PATH)).json()["state"] == "running":  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return (await house.admin.get(PATH)).json()


async def test_a_rollout_from_its_first_share_to_everybody(house):
    rollout = await start(house, percent=10)
    assert (rollout["stable"], rollout["candidate"], rollout["state"]) == (1, 2, "running")
    assert await target(house) == {"split": {"1": 90, "2": 10}}
    users = [str(number) for number in range(300)]
    first = {user for user in users if house.registry.resolve("a", user).version == 2}
    changed = await house.admin.patch(PATH, json={"percent": 50})
    assert changed.json()["percent"] == 50
    more = {user for user in users if house.registry.resolve("a", user).version == 2}
    assert first < more, "who had the candidate keeps it"
    promoted = await house.admin.post(f"{PATH}:promote")
    assert promoted.json()["state"] == "promoted"
    assert promoted.json()["ended_at"] is not None
    assert await target(house) == {"version": 2}
    assert entry(house) is None
    types = [item["type"] for item in (await house.admin.get("/events")).json()["items"]]
    assert types[-6:] == [
        "alias.moved", "rollout.started", "alias.moved", "rollout.adjusted", "alias.moved", "rollout.promoted",
    ]  # fmt: skip


async def test_aborting_returns_everybody(house):
    await start(house, percent=99)
    assert (await house.admin.post(f"{PATH}:abort")).json()["state"] == "aborted"
    assert await target(house) == {"version": 1}
    assert (await house.admin.post(f"{PATH}:abort")).status_code == 404
    assert [item["state"] for item in (await house.admin.get(f"{PATH}s")).json()["items"]] == ["aborted"]


async def test_the_rollouts_of_all_adapters_are_listed_newest_first(house):
    await start(house, percent=10)
    await house.adapter("b", 1, 2)
    headers = {"If-Match": await house.etag("b", "default")}
    started = await house.admin.post("/adapters/b/aliases/default/rollout", json={"candidate": 2}, headers=headers)
    assert started.status_code == 201, started.text
    page = (await house.admin.get("/rollouts?limit=1")).json()
    assert [item["adapter"] for item in page["items"]] == ["b"]
    rest = (await house.admin.get(f"/rollouts?limit=1&page_token={page['next_page_token']}")).json()
    assert [item["adapter"] for item in rest["items"]] == ["a"]
    assert rest["next_page_token"] is None
    await house.admin.post(f"{PATH}:abort")
    running = (await house.admin.get("/rollouts?state=running")).json()["items"]
    assert [item["adapter"] for item in running] == ["b"]
    await house.admin.delete("/adapters/b")
    assert [item["adapter"] for item in (await house.admin.get("/rollouts")).json()["items"]] == ["a"]
    assert (await house.admin.get("/rollouts?state=lost")).status_code == 400


async def roll_back(house):
    response = await house.admin.post("/adapters/a/aliases/default:rollback")
    assert response.status_code == 200, response.text
    return {key: response.json()[key] for key in ("version", "split") if key in response.json()}


async def test_a_rollback_never_returns_to_a_rollouts_own_split(house):
    await start(house, percent=10)
    await house.admin.patch(PATH, json={"percent": 50})
    await house.admin.post(f"{PATH}:promote")
    shown = (await house.admin.get("/adapters/a/aliases/default")).json()
    assert shown["rollback_to"] == {"version": 1}, "a button can name it"
    for _ in range(2):
        assert await roll_back(house) == {"version": 1}


async def test_a_rollback_in_the_middle_of_a_rollout_goes_to_the_stable_version(house):
    await start(house, percent=10)
    for percent in (50, 0, 20):
        await house.admin.patch(PATH, json={"percent": percent})
    for _ in range(2):
        assert await roll_back(house) == {"version": 1}
    assert (await house.admin.get(PATH)).json()["state"] == "superseded"


async def test_who_moves_the_alias_during_a_rollout_leaves_the_stable_version(house):
    await start(house, percent=50)
    await house.admin.put("/adapters/a/aliases/default", json={"version": 3}, headers={"If-Match": "*"})
    assert await roll_back(house) == {"version": 1}


@pytest.mark.parametrize("end", ["errors", "abort"])
@pytest.mark.parametrize("body", [{"percent": 50}, {"shadow_percent": 50}])
async def test_a_rollback_does_not_bring_a_condemned_candidate_back(house, end, body):
    await house.adapter("a", 1, 2, 3)
    for version in (2, 1):  # the candidate was the target once
        await house.admin.put("/adapters/a/aliases/default", json={"version": version}, headers={"If-Match": "*"})
    await house.admin.post(PATH, json={"candidate": 2, **body}, headers={"If-Match": "*"})
    if end == "errors":
        house.registry.rollouts.observe(entry(house), 2, RequestOutcome(False, 0.1, refused=True))
        await until_it_ends(house)
    else:
        await house.admin.post(f"{PATH}:abort")
    for _ in range(3):
        assert await roll_back(house) == {"version": 1}


async def test_a_rollout_with_shadows_only_moves_nothing(house):
    await start(house, shadow_percent=100)
    assert await target(house) == {"version": 1}
    assert house.registry.resolve("a", None).rollout.shadow_percent == 100
    assert house.registry.resolve("a@1", None).rollout is None


async def test_what_cannot_be_rolled_out(house):
    await house.adapter("a", 1, 2)
    etag = {"If-Match": await house.etag("a", "default")}
    for body, status in (({"candidate": 9}, 404), ({"candidate": 1}, 400), ({"candidate": 2, "percent": 100}, 400)):
        assert (await house.admin.post(PATH, json=body, headers=etag)).status_code == status
    assert (await house.admin.post(PATH, json={"candidate": 2})).status_code == 428
    assert (await house.admin.get(PATH)).status_code == 404
    assert (await house.admin.post(PATH, json={"candidate": 2}, headers=etag)).status_code == 201
    again = await house.admin.post(PATH, json={"candidate": 2}, headers={"If-Match": "*"})
    assert (again.status_code, again.json()["type"]) == (409, "urn:multiflora:problem:rollout-conflict")


@pytest.mark.parametrize("how", ["move", "rollback", "delete", "delete the adapter"])
async def test_who_moves_the_alias_ends_the_rollout(house, how):
    await start(house, percent=10)
    rollout, headers = entry(house), {"If-Match": "*"}
    path = "/adapters/a/aliases/default"
    if how == "move":
        await house.admin.put(path, json={"version": 3}, headers=headers)
        assert await target(house) == {"version": 3}
    elif how == "rollback":
        await house.admin.post(f"{path}:rollback")
        assert await target(house) == {"version": 1}
    elif how == "delete":
        await house.admin.delete(path, headers=headers)
    else:
        await house.admin.delete("/adapters/a")
    events = (await house.admin.get("/events", params={"limit": 1000})).json()["items"]
    assert "rollout.superseded" in [event["type"] for event in events]
    for _ in range(30):  # late answers of the candidate change nothing any more
        house.registry.rollouts.observe(rollout, 2, RequestOutcome(False, 0.1))
    await house.registry.rollouts.close()
    assert (await house.admin.get("/events", params={"limit": 1000})).json()["items"] == events


@pytest.mark.parametrize("how", ["move", "rollback", "import"])
async def test_a_superseded_rollout_keeps_its_evidence(open_house, how):
    """In the database and not in memory, whatever moved the alias; a restart and a later rollout leave it alone."""
    house = await open_house()
    await start(house, percent=50)
    rollout = entry(house)
    for ok in (True, False, True):
        house.registry.rollouts.observe(rollout, 2, RequestOutcome(ok, 0.1))
    house.registry.rollouts.observe(rollout, 1, RequestOutcome(True, 0.1))
    house.registry.rollouts.observations(rollout).shadow.skipped += 1
    path, headers = "/adapters/a/aliases/default", {"If-Match": "*"}
    if how == "move":
        await house.admin.put(path, json={"version": 3}, headers=headers)
    elif how == "rollback":
        await house.admin.post(f"{path}:rollback")
    else:
        await house.upload("a", adapter_files(9), params={"promote": "true"})
    ended = (await house.admin.get(PATH)).json()
    assert (ended["state"], ended["reason"]) == ("superseded", None)
    seen = [ended[f"{arm}_observed"] for arm in ("candidate", "stable", "shadow")]
    assert [(arm["requests"], arm["errors"]) for arm in seen] == [(3, 1), (1, 0), (0, 0)]
    assert seen[2]["skipped"] == 1
    assert not house.registry.rollouts._seen.rollouts
    await house.close()
    house = await open_house()
    assert (await house.admin.get(PATH)).json() == ended
    candidate = 1 if how == "move" else 2
    headers = {"If-Match": "*"}
    assert (await house.admin.post(PATH, json={"candidate": candidate}, headers=headers)).status_code == 201
    house.registry.rollouts.observe(entry(house), candidate, RequestOutcome(True, 0.1))
    assert (await house.admin.get(f"{PATH}s")).json()["items"][1] == ended


async def test_evidence_of_a_rollout_that_another_process_ended_is_freed(house):
    await start(house, percent=50)
    rollouts, first = house.registry.rollouts, entry(house)
    rollouts.observe(first, 2, RequestOutcome(True, 0.1))
    mine = rollouts._seen
    rollouts._seen = RolloutEvidence(house.registry.database)  # as of another process, which saw nothing of it
    await house.admin.put("/adapters/a/aliases/default", json={"version": 3}, headers={"If-Match": "*"})
    rollouts._seen = mine
    assert (await house.admin.get(PATH)).json()["candidate_observed"]["requests"] == 0
    await house.admin.post(PATH, json={"candidate": 2}, headers={"If-Match": "*"})
    rollouts.observe(entry(house), 2, RequestOutcome(True, 0.1))
    assert list(rollouts._seen.rollouts) == [entry(house).id]


async def test_errors_roll_back_by_themselves(house):
    await start(house, percent=50, max_error_rate=0.2, min_samples=10)
    rollout = entry(house)
    for number in range(9):
        house.registry.rollouts.observe(rollout, 2, RequestOutcome(number % 3 > 0, 0.1))
        house.registry.rollouts.observe(rollout, 1, RequestOutcome(False, 0.1))
    assert (await house.admin.get(PATH)).json()["candidate_observed"]["errors"] == 3
    house.registry.rollouts.observe(rollout, 2, RequestOutcome(True, 0.1))
    ended = await until_it_ends(house)
    assert ended["state"] == "rolled_back"
    assert "30.0%" in ended["reason"]
    assert (ended["candidate_observed"]["requests"], ended["stable_observed"]["requests"]) == (10, 9)
    assert await target(house) == {"version": 1}
    audit = (await house.admin.get("/audit")).json()["items"][0]
    assert (audit["action"], audit["actor"]) == ("rollout.rolled_back", "system/rollout")


async def test_the_evidence_of_a_verdict_stays_as_it_was(house):
    await start(house, percent=50, max_error_rate=0.2, min_samples=10)
    rollout = entry(house)
    for _ in range(10):
        house.registry.rollouts.observe(rollout, 2, RequestOutcome(False, 0.1))
    for _ in range(5):  # they end before the rollback is committed
        house.registry.rollouts.observe(rollout, 2, RequestOutcome(True, 0.1))
    ended = await until_it_ends(house)
    evidence = ended["candidate_observed"]
    assert (evidence["requests"], evidence["errors"]) == (10, 10)
    house.registry.rollouts.observe(rollout, 2, RequestOutcome(True, 0.1))
    house.registry.rollouts.observations(rollout).shadow.skipped += 1
    assert (await house.admin.get(PATH)).json() == ended
    assert (await house.admin.get(f"{PATH}s")).json()["items"] == [ended]


@pytest.mark.parametrize(
    ("stable", "candidate", "rolled_back"), [(4, 4, False), (4, 5, False), (4, 9, True), (0, 3, True)]
)
def test_what_fails_in_both_arms_is_not_the_candidates_fault(stable, candidate, rolled_back):
    bounds = {"max_error_rate": 0.1, "max_p95_seconds": None, "max_p95_ratio": None, "min_samples": 20}
    rollout, seen = RolloutEntry(1, "a", 1, 2, 50, 0, bounds), Observations()
    for arm, errors in ((seen.stable, stable), (seen.candidate, candidate)):
        arm.outcomes.extend([RequestOutcome(False, 0.1)] * errors + [RequestOutcome(True, 0.1)] * (20 - errors))
    assert (seen.verdict(rollout) is not None) == rolled_back


async def test_a_version_that_cannot_be_loaded_rolls_back_at_once(house):
    await start(house, percent=50)
    house.registry.rollouts.observe(entry(house), 2, RequestOutcome(False, 0.1, refused=True))
    assert "could not load" in (await until_it_ends(house))["reason"]


@pytest.mark.parametrize(
    ("bounds", "seconds", "reason"),
    [
        ({"max_p95_seconds": 0.5}, 0.6, "0.600 s"),
        ({"max_p95_seconds": 0.5}, 0.4, None),
        ({"max_p95_ratio": 2.0}, 0.3, "3.00 times"),
        ({"max_p95_ratio": 2.0}, 0.15, None),
    ],
)
async def test_latency_rolls_back(house, bounds, seconds, reason):
    await start(house, percent=50, min_samples=5, **bounds)
    for _ in range(5):
        house.registry.rollouts.observe(entry(house), 1, RequestOutcome(True, 0.1))
    rollout = entry(house)
    for _ in range(5):
        house.registry.rollouts.observe(rollout, 2, RequestOutcome(True, seconds))
    await house.registry.rollouts.close()
    ended = (await house.admin.get(PATH)).json()
    assert (ended["state"] == "rolled_back") == (reason is not None)
    assert (reason or "") in (ended["reason"] or "")


def test_the_ratio_waits_for_both_sides():
    bounds = {"max_error_rate": 1.0, "max_p95_seconds": None, "max_p95_ratio": 2.0, "min_samples": 3}
    rollout, seen = RolloutEntry(1, "a", 1, 2, 50, 0, bounds), Observations()
    seen.candidate.outcomes.extend([RequestOutcome(True, 9.0)] * 5)
    assert seen.verdict(rollout) is None
    seen.stable.outcomes.extend([RequestOutcome(True, 1.0)] * 3)
    assert "9.00 times" in seen.verdict(rollout)


def test_percentiles_are_of_what_went_well():
    arm = Arm()
    arm.outcomes.extend(RequestOutcome(True, number / 100) for number in range(1, 101))
    arm.outcomes.append(RequestOutcome(False, 99.0))
    assert (arm.percentile(50), arm.percentile(95), arm.errors) == (0.5, 0.95, 1)
    assert Arm().percentile(95) is None


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [([1, 2], [1, 2], 1.0), ([1, 2], [1, 3], 0.5), ([], [], 1.0), ([1], [], 0.0), ([1, 2], [1, 2, 3, 4], 0.5)],
)
def test_agreement_is_of_leading_tokens(first, second, share):
    assert agreement(first, second) == share


async def test_a_protected_alias_moves_with_an_admin_key_only(house):
    acme = await house.tenant("acme")
    await acme.post("/adapters", json={"name": "a"})
    for seed in (1, 2):
        await house.upload("a", adapter_files(seed))
    path = "/adapters/a/aliases/default"
    assert (await acme.post(f"{path}:protect")).status_code == 403
    assert (await house.admin.post(f"{path}:protect")).json()["protected"] is True
    headers = {"If-Match": "*"}
    refused = [
        await acme.put(path, json={"version": 2}, headers=headers),
        await acme.delete(path, headers=headers),
        await acme.post(f"{path}:rollback", headers=headers),
        await acme.post(f"{path}/rollout", json={"candidate": 2}, headers=headers),
        await acme.delete("/adapters/a"),
        await acme.post("/adapters/a/versions?promote=true", json={"source": "hf://x/y"}),
    ]
    for response in refused:
        assert (response.status_code, response.json()["type"]) == (403, "urn:multiflora:problem:alias-protected")
    assert (await house.admin.put(path, json={"version": 2}, headers=headers)).status_code == 200
    await house.admin.post(f"{path}:unprotect")
    assert (await acme.put(path, json={"version": 1}, headers=headers)).status_code == 200


async def test_history_is_read_newest_first_and_survives_the_alias(house):
    await house.adapter("a", 1, 2)
    path = "/adapters/a/aliases/x"
    for version in (1, 2):
        await house.admin.put(path, json={"version": version}, headers={"If-Match": "*"} if version > 1 else {})
    await house.admin.delete(path, headers={"If-Match": "*"})
    seen, token = [], None
    while token is not None or not seen:
        params = {"limit": 2} | ({"page_token": token} if token else {})
        page = (await house.admin.get(f"{path}/history", params=params)).json()
        seen += page["items"]
        token = page["next_page_token"]
    assert [move["target"] for move in seen] == [None, {"version": 2}, {"version": 1}]
    assert all(move["actor"] == "admin/api-key-1" and move["at"] for move in seen)


async def test_weights_and_prompts_are_warm_before_traffic_moves(open_house):
    seen = []

    async def run(digest, prompts, owner, replica):
        seen.append((digest, tuple(prompts), owner, house.registry.resolve("a", None).version))

    engine = FakeEngine()
    house = await open_house(engine=engine, run_prompts=run)
    await house.adapter("a", 1, 2)
    digests = house.registry.adapter("a").digests
    await house.admin.patch("/adapters/a", json={"warmup_prompts": ["one", "two"]})
    engine.commands.clear()
    await house.admin.put("/adapters/a/aliases/default", json={"version": 2}, headers={"If-Match": "*"})
    assert engine.commands == [("load", digests[2])]
    assert seen == [(digests[2], ("one", "two"), None, 1)], "before the alias moved"
    await house.admin.put("/adapters/a/aliases/default", json={"version": 2}, headers={"If-Match": "*"})
    assert len(seen) == 1, "it was warm already"
    await house.admin.post("/adapters/a:load?version=1")
    assert seen[-1][0] == digests[1]


async def test_an_alias_does_not_move_to_what_the_engine_cannot_load(open_house):
    engine = FakeEngine()
    house = await open_house(engine=engine)
    await house.adapter("a", 1, 2)
    engine.error = "its file is gone"
    response = await house.admin.put("/adapters/a/aliases/default", json={"version": 2}, headers={"If-Match": "*"})
    assert response.status_code == 502
    assert "not moved" in response.json()["detail"]
    assert await target(house) == {"version": 1}
    engine.state, engine.error = "restarting", None
    response = await house.admin.put("/adapters/a/aliases/default", json={"version": 2}, headers={"If-Match": "*"})
    assert response.status_code == 200, "a server without an engine does not hold up the registry"


@pytest.mark.parametrize("prompts", [["x"] * 17, ["x" * 16_385], [""], "x", ["\0"]])
async def test_warm_up_prompts_are_bounded(house, prompts):
    await house.adapter("a")
    response = await house.admin.patch("/adapters/a", json={"warmup_prompts": prompts})
    assert response.status_code == 400
    assert response.json()["errors"][0]["pointer"].startswith("/warmup_prompts")
