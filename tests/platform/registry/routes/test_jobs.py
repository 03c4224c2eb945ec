"""/api/v1/jobs: seen, followed, cancelled; and 202 for those who do not want to wait."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.platform.registry.house import adapter_files


class Gate:
    """A prober that holds versions back until it is opened."""

    def __init__(self):
        self.reached, self.opened = asyncio.Event(), asyncio.Event()

    async def __call__(self, digest):
        self.reached.set()
        await self.opened.wait()
        return 1.0


@pytest.fixture
async def gated(open_house):
    gate = Gate()
    house = await open_house(prober=gate)
    await house.adapter("a")
    yield house, gate
    gate.opened.set()


async def submitted(house, seed=1, name="a"):
    response = await house.upload(name, adapter_files(seed), headers={"Prefer": "respond-async"})
    assert response.status_code == 202, response.text
    return response.json()


async def test_whoever_does_not_wait_gets_a_job(gated):
    house, gate = gated
    body = await submitted(house)
    assert (body["version"], body["state"], body["job"]["state"]) == (1, "validating", body["job"]["state"])
    path = f"/jobs/{body['job']['id']}"
    await gate.reached.wait()
    job = (await house.admin.get(path)).json()
    assert (job["state"], job["version_state"], job["attempts"], job["adapter"]) == ("running", "validating", 1, "a")
    short = await house.upload("a", adapter_files(1), headers={"Prefer": "wait=0, handling=lenient"})
    assert (short.status_code, short.json()["job"]["id"]) == (202, job["id"])
    gate.opened.set()
    known = await house.upload("a", adapter_files(1))
    assert (known.status_code, known.json()["version"]) == (200, 1)
    assert (await house.admin.get(path)).json()["state"] == "succeeded"


async def test_a_job_is_followed_to_its_end(gated):
    house, gate = gated
    body = await submitted(house)
    await gate.reached.wait()
    asyncio.get_running_loop().call_later(0.1, gate.opened.set)
    response = await house.admin.get(f"/jobs/{body['job']['id']}", headers={"Accept": "text/event-stream"})
    frames = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]
    assert [frame["state"] for frame in frames] == ["running", "succeeded"]


async def test_a_cancelled_job_leaves_a_rejected_version(gated):
    house, gate = gated
    waiting = asyncio.create_task(house.upload("a", adapter_files(1)))
    await gate.reached.wait()
    (job,) = (await house.admin.get("/jobs", params={"state": "running"})).json()["items"]
    assert (await house.admin.post(f"/jobs/{job['id']}:cancel")).json()["state"] == "cancelled"
    assert (await asyncio.wait_for(waiting, 30)).json()["type"].endswith("job-cancelled")
    assert (await house.admin.post(f"/jobs/{job['id']}:cancel")).status_code == 409
    assert (await house.admin.get("/adapters/a/versions/1")).json()["state"] == "rejected"
    gate.opened.set()
    assert (await house.upload("a", adapter_files(1))).json()["version"] == 2
    await house.close()
    assert len(house.store.digests()) == 1
    assert not [path for path in (house.data / "incoming").iterdir() if path.is_dir()]


async def test_a_server_that_ends_gives_its_jobs_back(gated, open_house):
    house, gate = gated
    body = await submitted(house)
    await gate.reached.wait()
    await house.close()
    other = await open_house()
    await other.registry._runner.answer(body["job"]["id"], 20)
    job = (await other.admin.get(f"/jobs/{body['job']['id']}")).json()
    assert (job["state"], job["attempts"]) == ("succeeded", 1)
    assert other.registry.resolve("a", None).version == 1


async def test_pages_of_jobs_and_who_may_see_them(house):
    acme, other = await house.tenant("acme"), await house.tenant("other")
    await acme.post("/adapters", json={"name": "mine"})
    await house.adapter("a", 1, 2)
    parts = [("f", (name, data)) for name, data in adapter_files(3).items()]
    assert (await acme.post("/adapters/mine/versions", files=parts)).status_code == 201
    first = (await house.admin.get("/jobs", params={"limit": 2})).json()
    rest = (await house.admin.get("/jobs", params={"limit": 2, "page_token": first["next_page_token"]})).json()
    assert [job["adapter"] for job in first["items"] + rest["items"]] == ["mine", "a", "a"]
    assert rest["next_page_token"] is None
    (mine,) = (await acme.get("/jobs")).json()["items"]
    assert (await other.get("/jobs")).json()["items"] == []
    for client, status in ((acme, 200), (other, 404), (house.admin, 200)):
        assert (await client.get(f"/jobs/{mine['id']}")).status_code == status
    assert (await other.post(f"/jobs/{mine['id']}:cancel")).status_code == 404
    assert (await house.admin.get("/jobs", params={"adapter": "nobody"})).status_code == 404
    for token in ("x", "MjAyNg", "bm8gZGF0ZQ"):
        assert (await house.admin.get("/jobs", params={"page_token": token})).status_code == 400


async def test_a_hundred_posts_with_one_key_make_one_version(house):
    await house.adapter("a")
    headers = {"Idempotency-Key": "k"}
    answers = await asyncio.gather(*(house.upload("a", adapter_files(1), headers=headers) for _ in range(100)))
    assert {(answer.status_code, answer.text) for answer in answers} == {(201, answers[0].text)}
    assert len((await house.admin.get("/jobs")).json()["items"]) == 1
    assert [item["version"] for item in (await house.admin.get("/adapters/a/versions")).json()["items"]] == [1]
