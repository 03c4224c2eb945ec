"""POST /api/v1/profile: one at a time, of which process, what is refused, and the trace for download."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.platform.gateway.house import TENANT, House

from multiflora_engine.protocol.messages import ProfileReply
from multiflora_platform.observability import profiles

PATH = "/api/v1/profile"


async def start(house: House, status: int = 202, **body: Any) -> dict[str, Any]:
    answer = await house.http.post(PATH, json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def ended(house: House, id: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while True:
            profile: dict[str, Any] = (await house.http.get(f"{PATH}/{id}")).json()
            if profile["state"] != "running":
                return profile
            await asyncio.sleep(0.005)


async def test_a_trace_of_an_engine_is_recorded_while_requests_go_on(house: House) -> None:
    profile = await start(house, kind="python", seconds=2)
    assert (profile["state"], profile["replica"], profile["process"], profile["bytes"]) == (
        "running",
        "0",
        "engine",
        None,
    )
    early = await house.http.get(f"{PATH}/{profile['id']}/trace")
    assert (early.status_code, early.json()["type"].rsplit(":")[-1]) == (409, "profile-not-ready")
    for kind in ("python", "torch", "memory"):
        second = await start(house, 409, kind=kind)
        assert second["type"].endswith("profile-running")
        assert profile["id"] in second["detail"]
    chat = {"model": "sql", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    assert (await house.http.post("/v1/chat/completions", json=chat)).status_code == 200
    house.engine.profile_ends.set()
    done = await ended(house, profile["id"])
    assert house.engine.profiled == [("python", 2.0)]
    assert (done["state"], done["bytes"], done["error"]) == ("done", 12, None)
    trace = await house.http.get(f"{PATH}/{profile['id']}/trace")
    assert trace.content == b"main;step 7\n"
    assert done["file"] in trace.headers["content-disposition"]
    again = await start(house, kind="memory", seconds=0.1)
    await ended(house, again["id"])
    items = (await house.http.get(PATH)).json()["items"]
    assert [item["id"] for item in items] == [again["id"], profile["id"]]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"kind": "python", "seconds": -1}, 400),
        ({"kind": "python", "seconds": 0}, 400),
        ({"kind": "python", "seconds": 601}, 400),
        ({"kind": "python", "seconds": 1e300}, 400),
        ({"kind": "python", "seconds": None}, 400),
        ({"kind": "python", "seconds": "5"}, 400),
        ({"kind": "torch", "seconds": 61}, 400),
        ({"kind": "cprofile"}, 400),
        ({"kind": None}, 400),
        ({}, 400),
        ({"kind": "python", "replica": "7"}, 404),
        ({"kind": "python", "replica": ""}, 400),
        ({"kind": "torch", "process": "gateway"}, 400),
        ({"kind": "python", "process": "gateway", "replica": "0"}, 400),
    ],
)
async def test_what_cannot_be_recorded_is_refused(house: House, body: dict[str, Any], status: int) -> None:
    await start(house, status, **body)
    assert (await house.http.get(PATH)).json() == {"items": []}
    assert house.engine.profiled == []


async def test_an_engine_that_dies_meanwhile_and_one_that_is_not_there(house: House) -> None:
    profile = await start(house, kind="torch")
    house.engine.ready = None
    house.engine.profile_ends.set()
    died = await ended(house, profile["id"])
    assert (died["state"], died["error"]) == ("failed", "The engine of replica 0 ended during the profile.")
    trace = await house.http.get(f"{PATH}/{profile['id']}/trace")
    assert (trace.status_code, died["error"] in trace.json()["detail"]) == (409, True)
    for body in ({"kind": "torch"}, {"kind": "torch", "replica": "0"}):
        assert (await start(house, 503, **body))["type"].endswith("unavailable")


async def test_what_the_engine_could_not_record_is_told(house: House) -> None:
    house.engine.profile_reply = ProfileReply(0, "The trace could not be written: No space left on device.")
    house.engine.profile_ends.set()
    failed = await ended(house, (await start(house, kind="torch"))["id"])
    assert (failed["state"], failed["error"]) == ("failed", house.engine.profile_reply.error)


async def test_the_gateway_records_itself(house: House) -> None:
    profile = await start(house, kind="python", seconds=0.1, process="gateway")
    assert profile["replica"] is None
    await ended(house, profile["id"])
    trace = (await house.http.get(f"{PATH}/{profile['id']}/trace")).text
    assert trace.startswith("MainThread;") or "\nMainThread;" in trace
    assert house.engine.profiled == []


async def test_the_oldest_traces_make_room(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "_MOST_BYTES", 25)
    house.engine.profile_ends.set()
    ids = []
    for _ in range(3):
        ids.append((await start(house, kind="python"))["id"])
        await ended(house, ids[-1])
    assert [item["id"] for item in (await house.http.get(PATH)).json()["items"]] == [ids[2], ids[1]]
    assert (await house.http.get(f"{PATH}/{ids[0]}/trace")).status_code == 404


async def test_profiles_are_for_admins(house: House) -> None:
    tenant = {"Authorization": f"Bearer {TENANT}"}
    for method, path in (("POST", PATH), ("GET", PATH), ("GET", f"{PATH}/x"), ("GET", f"{PATH}/x/trace")):
        answer = await house.http.request(method, path, headers=tenant, json={"kind": "python"})
        assert answer.status_code == 403, path
