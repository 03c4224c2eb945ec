"""Events, audit, replicas, and commands to the engine."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace

import pytest
from tests.platform.registry.house import adapter_files, rejected_files, when_told
from tests.platform.registry.routes.test_version_life import upload

from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.protocol.messages import (
    AdapterResult,
    EngineStats,
    ResidencyReport,
    Status,
)
from multiflora_platform.storage import outbox as events
from multiflora_platform.web import resources

pytestmark = pytest.mark.sqlite


class FakeEngine:
    """Remembers commands, answers as told: a fleet of one, and that one."""

    id, host, group, epoch, stats = "0", "here", "base", 0, EngineStats(free_blocks=7)

    def __init__(self, state="ready", error=None, distance=0.25):
        self.state = state
        self.error = error
        self.distance = distance
        self.is_full = False
        self.commands = []

    @property
    def ready(self):
        return self if self.state == "ready" else None

    @property
    def replicas(self):
        return [self]

    def addressed(self, replica):
        return self

    async def adapter(self, action, digest):
        if self.state != "ready":
            raise EngineUnavailable("engine_unavailable", "not started")
        self.commands.append((action, digest))
        return AdapterResult(1, self.error, self.distance if action == "probe" else None, self.is_full)

    async def status(self):
        row = ResidencyReport(digest="d" * 64, residency="slot", pinned=True, rank=8, bytes=100, running=2)
        return Status(1, 4242, EngineStats(), [row])


async def test_every_change_leaves_its_event_in_order(house):
    await house.adapter("a", 1)
    await house.upload("a", rejected_files())
    await house.admin.put("/adapters/a/aliases/x", json={"version": 1})
    await house.admin.delete("/adapters/a/aliases/x", headers={"If-Match": "*"})
    await house.admin.patch("/adapters/a", json={"tags": ["t"]})
    await house.admin.delete("/adapters/a")
    feed = (await house.admin.get("/events")).json()
    assert [item["type"] for item in feed["items"]] == [
        "adapter.created",
        "version.created",
        "version.ready",
        "alias.moved",
        "version.created",
        "version.rejected",
        "alias.moved",
        "alias.deleted",
        "adapter.updated",
        "adapter.deleted",
    ]
    ids = [item["id"] for item in feed["items"]]
    assert ids == sorted(set(ids))
    assert feed["next_cursor"] == ids[-1]
    assert all(item["adapter"] == "a" for item in feed["items"])
    audit = (await house.admin.get("/audit")).json()["items"]
    assert [row["action"] for row in audit] == [item["type"] for item in reversed(feed["items"])]
    assert all(row["actor"] == "admin/api-key-1" and row["at"] and row["target"] for row in audit)


async def test_the_newest_events_of_some_types_are_read_from_the_end(house):
    await house.adapter("a", 2)
    everything = (await house.admin.get("/events")).json()["items"]
    types = ["alias.moved", "version.ready"]
    page = (await house.admin.get("/events", params={"newest": True, "type": types, "limit": 2})).json()
    assert page["items"] == [item for item in reversed(everything) if item["type"] in types][:2]
    assert page["next_cursor"] == page["items"][0]["id"]
    assert (await house.admin.get("/events", params={"newest": True})).json()["items"] == everything[::-1]


async def test_events_are_read_from_a_cursor(house):
    await house.adapter("a", 1)
    everything = (await house.admin.get("/events")).json()["items"]
    seen, cursor = [], 0
    while True:
        page = (await house.admin.get("/events", params={"cursor": cursor, "limit": 1})).json()
        cursor = page["next_cursor"]
        if not page["items"]:
            break
        seen += page["items"]
    assert seen == everything
    assert cursor == everything[-1]["id"]
    for params in ({"cursor": -1}, {"cursor": "x"}, {"cursor": 2**63}, {"limit": 0}):
        assert (await house.admin.get("/events", params=params)).status_code == 400


async def test_a_refused_change_leaves_no_event(house):
    await house.adapter("a", 1)
    before = (await house.admin.get("/events")).json()
    await house.admin.put("/adapters/a/aliases/default", json={"version": 1})
    await house.admin.post("/adapters", json={"name": "a"})
    await house.upload("a", {"x": b""})
    assert (await house.admin.get("/events")).json() == before


async def test_audit_is_paged_newest_first(house):
    for name in "abcde":
        await house.adapter(name)
    seen, token = [], None
    while token is not None or not seen:
        params = {"limit": 2} | ({"page_token": token} if token else {})
        page = (await house.admin.get("/audit", params=params)).json()
        seen += [row["target"] for row in page["items"]]
        token = page["next_page_token"]
    assert seen == list("edcba")


def frames(data):
    return [
        dict(line.split(": ", 1) for line in frame.split("\n")) for frame in data.split("\n\n") if frame[:3] == "id:"
    ]


async def test_the_feed_follows_and_resumes(house):
    await house.adapter("a", 1)
    last = (await house.admin.get("/events")).json()["next_cursor"]
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(last - 1)}
    told = [when_told(house, name) for name in "ab"]
    following = asyncio.create_task(house.admin.get("/events", headers=headers))
    await asyncio.wait_for(told[0].wait(), 30)
    await house.adapter("b")
    await asyncio.wait_for(told[1].wait(), 30)
    house.registry.stop_feeds()
    response = await following
    assert response.headers["content-type"].startswith("text/event-stream")
    got = frames(response.text)
    assert [frame["event"] for frame in got] == ["alias.moved", "adapter.created"]
    assert [int(frame["id"]) for frame in got] == [last, last + 1]
    assert json.loads(got[1]["data"])["adapter"] == "b"


async def test_the_feed_wakes_up_at_once_and_says_when_it_is_alive(house, monkeypatch):
    monkeypatch.setattr(events, "KEEPALIVE_SECONDS", 0.02)
    feed = house.registry.feed.follow(0)
    assert (await anext(feed)).startswith(b":")
    assert await asyncio.wait_for(anext(feed), 30) == b": keep-alive\n\n"
    monkeypatch.setattr(events, "KEEPALIVE_SECONDS", 60)
    waiting = asyncio.create_task(anext(feed))
    await asyncio.sleep(0)
    await house.adapter("a")
    assert b"adapter.created" in await asyncio.wait_for(waiting, 30)
    await feed.aclose()


async def test_a_follower_that_leaves_while_it_reads_does_not_tear_the_read_apart(house, monkeypatch):
    feed, reading, done = house.registry.feed, asyncio.Event(), asyncio.Event()

    async def slow_page(cursor, limit):
        reading.set()
        await asyncio.sleep(0.02)
        done.set()
        return []

    monkeypatch.setattr(feed, "page", slow_page)
    follower = feed.follow(0)
    await anext(follower)
    waiting = asyncio.create_task(anext(follower))
    await reading.wait()
    waiting.cancel()
    await asyncio.wait_for(done.wait(), 30)


async def test_a_bad_last_event_id_is_a_400(house):
    headers = {"Accept": "text/event-stream", "Last-Event-ID": "x"}
    assert (await house.admin.get("/events", headers=headers)).status_code == 400


async def test_commands_reach_the_engine_and_the_audit(open_house):
    engine = FakeEngine()
    house = await open_house(engine=engine)
    await house.adapter("a", 1, 2)
    first, second = (house.registry.resolve(f"a@{n}", None).digest for n in (1, 2))
    engine.commands.clear()
    for action in ("load", "unload", "pin", "unpin"):
        assert (await house.admin.post(f"/adapters/a:{action}")).status_code == 200
    assert engine.commands == [(action, first) for action in ("load", "unload", "pin", "unpin")]
    engine.commands.clear()
    assert (await house.admin.post("/adapters/a:load", params={"version": 2})).json()["version"] == 2
    assert (await house.admin.post("/adapters/a:pin", json={"version": 2})).json()["digest"] == second
    assert engine.commands == [("load", second), ("pin", second)]
    assert (await house.admin.post("/adapters/a:load", params={"version": 3})).status_code == 404
    assert (await house.admin.post("/adapters/b:load")).status_code == 404
    assert (await house.admin.post("/adapters/a:explode")).status_code in (404, 405)
    assert (await house.admin.get("/audit")).json()["items"][0]["action"] == "adapter.pin"


@pytest.mark.parametrize(
    ("engine", "error", "status"), [(None, None, 503), (FakeEngine("starting"), None, 503), (FakeEngine(), "bad", 502)]
)
async def test_an_engine_that_is_away_or_refuses(open_house, engine, error, status):
    if engine is not None:
        engine.error = None  # one object for both databases
    house = await open_house(engine=engine)
    await house.adapter("a", 1)
    if error is not None:
        engine.error = error
    response = await house.admin.post("/adapters/a:load")
    assert response.status_code == status
    assert ("retry-after" in response.headers) == (status == 503)


async def test_a_new_version_is_probed_by_a_ready_engine(open_house):
    engine = FakeEngine()
    house = await open_house(engine=engine)
    await house.adapter("a", 1)
    assert engine.commands == [("probe", house.registry.resolve("a", None).digest)]
    rows = (await house.admin.get("/adapters/a/versions/1/validation")).json()["rows"]
    assert rows[-1]["check"] == "probe"
    assert rows[-1]["observed"] == "0.25"
    engine.state = "restarting"
    assert (await house.upload("a", adapter_files(2))).status_code == 201


@pytest.mark.parametrize("promote", [False, True])
async def test_a_version_that_the_engine_refuses_is_rejected(open_house, promote):
    engine = FakeEngine()
    house = await open_house(engine=engine)
    await house.adapter("a", 1)
    engine.error = "Its copy of model.embed_tokens differs from the base model's."
    refused = await house.upload("a", adapter_files(2), params={"promote": promote})
    assert refused.status_code == 422
    assert engine.error in refused.json()["detail"]
    version = (await house.admin.get("/adapters/a/versions/2")).json()
    report = (await house.admin.get("/adapters/a/versions/2/validation")).json()["rows"]
    assert version["state"] == "rejected"
    assert [(row["check"], row["severity"]) for row in report if row["severity"] == "error"] == [("probe", "error")]
    assert house.registry.resolve("a", None).version == 1


async def test_a_first_version_that_the_engine_refuses_is_not_the_default(open_house):
    house = await open_house(engine=FakeEngine(error="bad"))
    await house.adapter("a")
    assert (await house.upload("a", adapter_files(1))).status_code == 422
    assert house.registry.resolve("a", None) is None


async def test_a_version_for_which_pins_leave_no_room_now_is_ready_with_a_warning(open_house):
    engine = FakeEngine(error="There is no room.")
    engine.is_full = True
    house = await open_house(engine=engine)
    await house.adapter("a", 1)
    rows = (await house.admin.get("/adapters/a/versions/1/validation")).json()["rows"]
    assert [row["severity"] for row in rows if row["check"] == "probe"] == ["warning"]


async def test_replicas(open_house):
    house = await open_house()
    assert (await house.admin.get("/replicas")).json()["items"] == []
    await house.close()
    engine = FakeEngine()
    house = await open_house(engine=engine)
    (row,) = (await house.admin.get("/replicas")).json()["items"]
    assert (row["pid"], row["state"], row["id"], row["host"], row["group"]) == (4242, "ready", "0", "here", "base")
    assert row["adapters"][0] | {"residency": "slot", "pinned": True, "digest": "d" * 64} == row["adapters"][0]
    await house.adapter("a", 1)
    rows = (await house.admin.get("/replicas")).json()["items"][0]["adapters"]
    digest = house.registry.resolve("a", None).digest
    assert [(row["digest"], row["residency"], row["pinned"]) for row in rows] == [
        ("d" * 64, "slot", True),
        (digest, "disk", False),
    ]
    (row,) = (await house.admin.get("/replicas?on_disk=false")).json()["items"]
    assert ([one["digest"] for one in row["adapters"]], row["adapters_on_disk"]) == (["d" * 64], 1)
    engine.state = "restarting"
    (row,) = (await house.admin.get("/replicas")).json()["items"]
    assert (row["pid"], row["state"], row["adapters"], row["free_blocks"]) == (None, "restarting", [], 7)
    assert row["adapters_on_disk"] == 0


async def test_an_artifact_stays_while_requests_run_on_it_and_then_goes(open_house):
    engine = FakeEngine()
    house = await open_house(engine=engine)
    await house.adapter("a", 1)
    digest = house.registry.resolve("a", None).digest
    with house.registry.lease(digest), house.registry.lease(digest):
        await house.admin.delete("/adapters/a")
        await settled(house)
        assert house.store.has(digest)
        assert ("unload", digest) not in engine.commands
    await settled(house)
    assert not house.store.has(digest)
    assert engine.commands[-2:] == [("unpin", digest), ("unload", digest)]


async def test_an_artifact_that_another_adapter_names_stays(house):
    await house.adapter("a", 1)
    await house.adapter("b", 1)
    digest = house.registry.resolve("a", None).digest
    await house.admin.delete("/adapters/a")
    await settled(house)
    assert house.store.has(digest)
    await house.admin.delete("/adapters/b")
    await settled(house)
    assert not house.store.has(digest)


async def test_deleting_and_uploading_the_same_content_at_once_never_loses_it(house):
    await house.adapter("a", 1)
    await house.adapter("b")
    for _ in range(5):
        _, uploaded = await asyncio.gather(house.admin.delete("/adapters/a"), house.upload("b", adapter_files(1)))
        assert uploaded.is_success
        await settled(house)
        assert house.store.has(house.registry.resolve("b", None).digest)
        await house.admin.delete("/adapters/b")
        await house.adapter("a", 1)
        await house.adapter("b")


async def test_a_version_that_its_eval_rejects_does_not_stay_in_a_slot(open_house):
    async def answer(digest, one):
        return "no SQL"

    engine = FakeEngine()
    house = await open_house(engine=engine, answer_eval=answer)
    await house.adapter("a", 1)
    rejected = await upload(house, "a", 2, {"evals": [{"prompt": "Count", "contains": ["COUNT("]}]})
    assert rejected.status_code == 422
    await settled(house)
    digest = house.registry.snapshot.adapters["a"].unserved_digests[2]
    assert engine.commands[-2:] == [("unpin", digest), ("unload", digest)]


async def settled(house):
    """Until the collector has nothing to do."""
    tasks = SimpleNamespace(left=house.registry._artifacts._tasks)
    while tasks.left:
        await asyncio.gather(*tasks.left)


@pytest.mark.parametrize("action", ["pin", "load"])
async def test_more_pins_than_fit_are_a_conflict(open_house, action):
    engine = FakeEngine()
    house = await open_house(engine=engine)
    await house.adapter("a", 1)
    engine.error, engine.is_full = "Pinning it would leave too little room; unpin one or raise --max-loras.", True
    refused = await house.admin.post(f"/adapters/a:{action}")
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:multiflora:problem:adapters-do-not-fit")
    assert "unpin one" in refused.json()["detail"]


async def test_the_audit_of_one_adapter_is_found_behind_that_of_others(house):
    await house.adapter("sql", 1)
    await house.tenant("sql")
    for name in ("SQL", "sql-2"):
        await house.adapter(name, 2)
    page = (await house.admin.get("/audit", params={"adapter": "sql", "limit": 2})).json()
    assert [(row["action"], row["target"]) for row in page["items"]] == [
        ("alias.moved", "sql@default"),
        ("version.ready", "sql@1"),
    ]
    page = (await house.admin.get("/audit", params={"adapter": "sql", "page_token": page["next_page_token"]})).json()
    assert [(row["action"], row["target"]) for row in page["items"]] == [
        ("version.created", "sql@1"),
        ("adapter.created", "sql"),
    ]
    assert (await house.admin.get("/audit", params={"adapter": "%"})).json()["items"] == []


async def test_lists_are_compressed_for_who_takes_that(house, monkeypatch):
    monkeypatch.setattr(resources, "_WORTH_COMPRESSING", 1)
    await house.adapter("a", 1)
    alias = "/adapters/a/aliases/default"
    for path in ("/adapters", "/versions", "/adapters/a/versions", f"{alias}/history", "/jobs", "/events", "/audit"):
        plain = await house.admin.get(path, headers={"Accept-Encoding": "identity"})
        zipped = await house.admin.get(path, headers={"Accept-Encoding": "gzip"})
        assert zipped.json() == plain.json(), path
        assert ("content-encoding" in plain.headers, zipped.headers.get("content-encoding")) == (False, "gzip"), path
