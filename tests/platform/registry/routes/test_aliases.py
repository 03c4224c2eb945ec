"""Aliases over HTTP: preconditions, splits, rollback."""

from __future__ import annotations

import asyncio

import pytest
from tests.platform.registry.house import base_model, rejected_files

pytestmark = pytest.mark.sqlite


async def put(house, alias, target, **headers):
    names = {"if_match": "If-Match", "if_none_match": "If-None-Match"}
    sent = {names[key]: value for key, value in headers.items()}
    return await house.admin.put(f"/adapters/a/aliases/{alias}", json=target, headers=sent)


async def test_create_show_move_and_delete(house):
    await house.adapter("a", 1, 2)
    created = await put(house, "canary", {"version": 2})
    assert created.status_code == 201
    shown = await house.admin.get("/adapters/a/aliases/canary")
    assert shown.status_code == 200
    assert shown.json()["version"] == 2
    assert shown.headers["etag"] == created.headers["etag"]
    moved = await put(house, "canary", {"version": 1}, if_match=shown.headers["etag"])
    assert moved.status_code == 200
    assert moved.headers["etag"] != shown.headers["etag"]
    aliases = (await house.admin.get("/adapters/a")).json()["aliases"]
    assert aliases == {"canary": {"version": 1}, "default": {"version": 1}}
    listed = (await house.admin.get("/adapters/a/aliases")).json()["items"]
    assert [row["alias"] for row in listed] == ["canary", "default"]
    deleted = await house.admin.delete("/adapters/a/aliases/canary", headers={"If-Match": moved.headers["etag"]})
    assert deleted.status_code == 204
    assert (await house.admin.get("/adapters/a/aliases/canary")).status_code == 404


async def test_changing_without_or_with_a_stale_etag_is_refused(house):
    await house.adapter("a", 1, 2)
    etag = await house.etag("a", "default")
    assert (await put(house, "default", {"version": 2})).status_code == 428
    assert (await house.admin.delete("/adapters/a/aliases/default")).status_code == 428
    assert (await put(house, "default", {"version": 2}, if_match='"0"')).status_code == 412
    assert (await put(house, "default", {"version": 2}, if_match=f"W/{etag}")).status_code == 412
    assert (await put(house, "default", {"version": 2}, if_match=etag)).status_code == 200
    assert (await put(house, "default", {"version": 1}, if_match=etag)).status_code == 412
    stale = await house.admin.delete("/adapters/a/aliases/default", headers={"If-Match": etag})
    assert stale.status_code == 412
    assert house.registry.resolve("a", None).version == 2
    assert (
        await put(house, "default", {"version": 1}, if_match=f'"1000", {await house.etag("a", "default")}')
    ).is_success
    assert (await put(house, "default", {"version": 2}, if_match="*")).is_success


async def test_creating_with_conditions(house):
    await house.adapter("a", 1)
    assert (await put(house, "x", {"version": 1}, if_match='"1"')).status_code == 412
    assert (await put(house, "x", {"version": 1}, if_none_match="*")).status_code == 201
    assert (await put(house, "x", {"version": 1}, if_none_match="*")).status_code == 412


async def test_an_etag_never_comes_back(house):
    await house.adapter("a", 1, 2)
    seen = []
    for _ in range(3):
        seen.append((await put(house, "x", {"version": 1})).headers["etag"])
        seen.append((await put(house, "x", {"version": 1}, if_match=seen[-1])).headers["etag"])
        await house.admin.delete("/adapters/a/aliases/x", headers={"If-Match": seen[-1]})
    await house.admin.delete("/adapters/a")
    await house.adapter("a", 1)
    seen.append((await put(house, "x", {"version": 1})).headers["etag"])
    seen.append(await house.etag("a", "default"))
    assert len(set(seen)) == len(seen)


async def test_of_parallel_moves_with_one_etag_exactly_one_wins(house):
    await house.adapter("a", 1, 2)
    etag = await house.etag("a", "default")
    responses = await asyncio.gather(*(put(house, "default", {"version": 1 + i % 2}, if_match=etag) for i in range(20)))
    assert sorted(response.status_code for response in responses) == [200] + [412] * 19


@pytest.mark.parametrize("alias", ["3", "0", "007", "a b", "é", "-x", "a@b", "x" * 65])
async def test_bad_alias_names_are_refused(house, alias):
    await house.adapter("a", 1)
    assert (await put(house, alias, {"version": 1})).status_code == 400


@pytest.mark.parametrize(
    "target",
    [
        {},
        {"version": 1, "split": {"1": 100}},
        {"version": "1"},
        {"version": None},
        {"split": {}},
        {"split": {"1": 50}},
        {"split": {"1": 50, "2": 51}},
        {"split": {"1": 100, "2": 0}},
        {"split": {"1": 150, "2": -50}},
        {"split": {"1": 50.5, "2": 49.5}},
        {"split": {"1": True, "2": 99}},
        {"split": {"one": 100}},
        {"split": {"01": 100}},
        {"split": [1]},
        {"version": 1, "force": True},
    ],
)
async def test_bad_targets_are_a_400(house, target):
    await house.adapter("a", 1, 2)
    response = await put(house, "x", target)
    assert response.status_code == 400, response.text
    assert (await house.admin.get("/adapters/a/aliases/x")).status_code == 404


async def test_only_ready_versions_can_have_an_alias(house):
    await house.adapter("a", 1)
    await house.upload("a", rejected_files())
    assert (await put(house, "x", {"version": 2})).status_code == 409
    assert (await put(house, "x", {"version": 3})).status_code == 404
    assert (await put(house, "x", {"version": 0})).status_code == 404
    assert (await put(house, "x", {"version": 10**30})).status_code in (400, 404)
    assert (await put(house, "x", {"split": {"1": 50, "2": 50}})).status_code == 409


async def test_a_split_is_sticky_and_raising_a_share_keeps_its_users(house):
    await house.adapter("a", 1, 2, 3)
    users = [f"user-{i}" for i in range(300)]

    def versions():
        return {user: house.registry.resolve("a@x", user).version for user in users}

    await put(house, "x", {"split": {"1": 80, "2": 10, "3": 10}})
    first = versions()
    assert first == versions()
    assert set(first.values()) == {1, 2, 3}
    await put(house, "x", {"split": {"1": 83, "2": 12, "3": 5}}, if_match="*")
    second = versions()
    assert all(second[user] == version for user, version in first.items() if version in (1, 2))
    shown = (await house.admin.get("/adapters/a")).json()["aliases"]["x"]
    assert shown == {"split": {"1": 83, "2": 12, "3": 5}}
    drawn = {house.registry.resolve("a@x", None).version for _ in range(300)}
    assert {1, 2} <= drawn
    await put(house, "x", {"split": {"3": 100}}, if_match="*")
    assert set(versions().values()) == {3}


async def test_rollback_goes_to_the_settled_target_before_and_stays_there(house):
    await house.adapter("a", 1, 2, 3)
    path = "/adapters/a/aliases/default:rollback"
    assert (await house.admin.post(path)).status_code == 409
    for version in (2, 3, 3):
        await put(house, "default", {"version": version}, if_match="*")
    stale = await house.admin.post(path, headers={"If-Match": '"0"'})
    assert stale.status_code == 412
    back = await house.admin.post(path)
    assert (back.status_code, back.json()["version"]) == (200, 2)
    assert house.registry.resolve("a", None).version == 2
    assert back.headers["etag"] == await house.etag("a", "default")
    again = await house.admin.post(path)
    assert (again.status_code, again.json()["version"], again.json()["rollback_to"]) == (200, 2, {"version": 2})
    assert again.headers["etag"] == back.headers["etag"], "a second rollback changes nothing"
    assert (await house.admin.post("/adapters/a/aliases/nope:rollback")).status_code == 404


@pytest.mark.parametrize(
    ("steps", "back"),
    [
        ([{"1": 90, "2": 10}, {"1": 50, "2": 50}, {"2": 100}], {"version": 1}),
        ([{"1": 90, "2": 10}, {"1": 100}], {"version": 1}),
        ([{"1": 90, "2": 10}, {"1": 50, "2": 50}], {"version": 1}),
        ([{"1": 50, "2": 50}, {"3": 100}], {"split": {"1": 50, "2": 50}}),
        ([{"1": 50, "2": 50}, {"1": 45, "2": 45, "3": 10}, {"3": 100}], {"split": {"1": 50, "2": 50}}),
    ],
)
async def test_steps_of_a_rollout_by_hand_are_no_settled_targets(house, steps, back):
    await house.adapter("a", 1, 2, 3)
    for shares in steps:
        whole = next((int(version) for version, share in shares.items() if share == 100), None)
        await put(house, "default", {"version": whole} if whole else {"split": shares}, if_match="*")
    for _ in range(2):
        shown = (await house.admin.post("/adapters/a/aliases/default:rollback")).json()
        assert back.items() <= shown.items()


async def test_without_default_the_name_is_nothing_but_versions_stay(house):
    await house.adapter("a", 1)
    await house.admin.delete("/adapters/a/aliases/default", headers={"If-Match": "*"})
    assert house.registry.resolve("a", None) is None
    assert house.registry.resolve("a@default", None) is None
    assert house.registry.resolve("a@1", None).version == 1
    assert house.registry.served() == []


async def test_what_names_resolve_to(house):
    await house.adapter("a", 1, 2)
    await put(house, "x", {"version": 2})
    resolve = house.registry.resolve
    assert (resolve("a", None).version, resolve("a", None).alias) == (1, "default")
    assert (resolve("a@x", None).version, resolve("a@x", None).alias) == (2, "x")
    assert (resolve("a@2", None).version, resolve("a@2", None).alias) == (2, None)
    digest = (await house.admin.get("/adapters/a/versions/2")).json()["digest"]
    assert resolve("a@2", None).digest == digest
    wrong = [
        "",
        "@",
        "a@",
        "@x",
        "a@3",
        "a@0",
        "a@02",
        "a@+2",
        "a@2.0",
        "a@²",
        "a@" + "9" * 5000,
        "a@x@x",
        "A",
        "b",
        "tiny",
    ]
    assert [model for model in wrong if resolve(model, "user") is not None] == []


async def test_served_lists_names_that_answer(house):
    await house.adapter("b", 1, 2)
    await house.adapter("a", 1)
    await house.adapter("empty")
    await house.admin.put("/adapters/b/aliases/default", json={"split": {"1": 30, "2": 70}}, headers={"If-Match": "*"})
    served = house.registry.served()
    assert [(row.name, row.version, row.aliases) for row in served] == [
        ("a", 1, {"default": 1}),
        ("b", 2, {"default": 2}),
    ]
    assert served[0].digest == house.registry.resolve("a", None).digest
    assert isinstance(served[0].created, int)


async def test_another_base_model_serves_none_of_these_versions(open_house):
    house = await open_house()
    await house.adapter("a", 1)
    await house.close()
    house = await open_house(base=base_model("c" * 64))
    assert house.registry.resolve("a", None) is None
    assert house.registry.resolve("a@1", None) is None
    assert (await house.admin.get("/adapters/a/versions/1")).json()["state"] == "ready"


async def test_resolving_is_fast(house):
    import time

    await house.adapter("a", 1, 2)
    await put(house, "x", {"split": {"1": 50, "2": 50}})
    best = min(_timed(house.registry.resolve, time.thread_time) for _ in range(5))
    assert best < 100e-6


def _timed(resolve, clock, rounds=500):
    start = clock()
    for _ in range(rounds):
        resolve("a@x", "user")
    return (clock() - start) / rounds


async def test_a_name_that_means_nothing_says_which_part_is_missing(house):
    await house.adapter("sql", 1, 2)
    await house.upload("sql", rejected_files())
    await house.adapter("secret", 1)
    await house.adapter("empty")

    def why(model, visible=lambda name, owner: name != "secret"):
        return house.registry.why_missing(model, visible, ["tiny"])

    assert why("sql@9") == "'sql' has no version 9; it serves 1, 2"
    assert why("sql@") == "the version or the alias after the @ is missing"
    assert why("sql@" + "9" * 5000).startswith("'sql' has no version 9999")
    assert "version 3 of 'sql' is rejected" in why("sql@3")
    assert why("sqll") == "did you mean 'sql'?"
    assert why("SQL") == "did you mean 'sql'?"
    assert why("tinny") == "did you mean 'tiny'?"
    assert why("sql@defualt") == "'sql' has no alias 'defualt'; did you mean 'sql@default'?"
    assert why("sql@production") == "'sql' has no alias 'production'; it has default"
    assert why("empty") == "'empty' has no alias 'default'; no version of it is ready"
    assert why("something-else") is None
    assert why("secret@9") is None, "what does not exist for the key is not told of"
    assert why("secrets") is None
    assert why("secrets", lambda name, owner: True) == "did you mean 'secret'?"
    await house.admin.delete("/adapters/sql/aliases/default", headers={"If-Match": "*"})
    assert why("sql") == "'sql' has no alias 'default'; name a version sql@1, sql@2"
    await house.admin.delete("/adapters/sql/versions/2")
    assert "version 2 of 'sql' is archived" in why("sql@2")


async def test_an_integral_float_is_an_integer(house):
    """As JavaScript's and Lua's clients may write it."""
    await house.adapter("a", 1)
    assert (await put(house, "canary", {"version": 1.0})).status_code == 201
    assert (await put(house, "half", {"version": 1.5})).status_code == 400
    assert (await house.admin.get("/adapters/a/aliases/canary")).json()["version"] == 1
