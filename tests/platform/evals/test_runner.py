"""Runs in the background: cancelled, resumed after a restart and a crash, patient with limits, judged by a model."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import JSONResponse
from tests.platform.evals.conftest import CASE, EvalHouse
from tests.platform.gateway.house import READY
from tests.platform.registry.house import House as RegistryHouse

from multiflora_platform.evals import runner, runs
from multiflora_platform.gateway import in_process
from multiflora_platform.storage.database import Change
from multiflora_platform.storage.tables import EvalRunRow

MANY = [{**CASE, "prompt": f"Say hello, {number}"} for number in range(12)]


@pytest.fixture
def backend() -> str:
    return "sqlite"


async def _asked(evals: EvalHouse, count: int) -> None:
    async with asyncio.timeout(20):
        while len(evals.engine.requests) < count:  # noqa: ASYNC110 - the engine has no event for it
            await asyncio.sleep(0.01)


async def _amend(evals: EvalHouse, run: int, **values: Any) -> None:
    async def work(change: Change) -> None:
        await change.session.execute(update(EvalRunRow).where(EvalRunRow.id == run).values(**values))

    await evals.registry.database.write("test", work)


async def _row(evals: EvalHouse, run: int) -> EvalRunRow:
    async with evals.registry.database.read() as session:
        return await session.get_one(EvalRunRow, run)


async def test_a_cancelled_run_keeps_its_answers_and_asks_no_more(evals: EvalHouse) -> None:
    evals.engine.hangs = True
    await evals.put(*MANY)
    queued = await evals.call("POST", "/evals/smoke/runs", {}, 202)
    await _asked(evals, 1)
    cancelled = await evals.call("POST", f"/eval-runs/{queued['id']}:cancel")
    assert (cancelled["state"], cancelled["score"]) == ("cancelled", None)
    assert cancelled["reason"] == "cancelled after 0 of 12"
    await evals.call("POST", f"/eval-runs/{queued['id']}:cancel", status=409)
    await evals.call("POST", "/eval-runs/999:cancel", status=404)
    evals.engine.hangs = False
    assert (await evals.run())["state"] == "completed"
    assert len(evals.engine.aborted) >= 1


async def test_a_restart_goes_on_behind_the_results_that_are_there(evals: EvalHouse) -> None:
    evals.engine.pace = 0.05
    await evals.put(*MANY)
    queued = await evals.call("POST", "/evals/smoke/runs", {}, 202)
    async with asyncio.timeout(30):
        while not await evals.results(queued["id"]):  # noqa: ASYNC110 - the runner has no event for it
            await asyncio.sleep(0.05)
    await evals.house.app.state.evals.close()
    stopped = (await evals.call("GET", f"/eval-runs/{queued['id']}"))["run"]
    assert stopped["state"] == "queued"
    known, before = len(await evals.results(queued["id"])), len(evals.engine.requests)
    evals.engine.pace = 0
    evals.reopened().runner.start()
    ended = await evals.until(queued["id"], "completed")
    assert (ended["passed"], ended["score"]) == (12, 1.0)
    assert len(evals.engine.requests) - before == 12 - known


async def test_a_run_of_a_server_that_was_killed_is_shown_as_queued_and_taken_up_when_its_lease_is_over(
    evals: EvalHouse,
) -> None:
    await evals.house.app.state.evals.close()
    await evals.put(CASE)
    queued = await evals.call("POST", "/evals/smoke/runs", {}, 202)
    now = datetime.now(UTC)
    held = {"state": "running", "lease_owner": "killed", "attempts": 1}
    await _amend(evals, queued["id"], **held, lease_until=now + timedelta(seconds=20))
    async with evals.registry.database.read() as session:
        assert not await runs.claimable(session, datetime.now(UTC))
    await _amend(evals, queued["id"], **held, lease_until=now - timedelta(seconds=1))
    assert (await evals.call("GET", f"/eval-runs/{queued['id']}"))["run"]["state"] == "queued"
    evals.reopened().runner.start()
    assert (await evals.until(queued["id"], "completed"))["score"] == 1.0


async def test_without_unfinished_runs_the_runner_rests_until_another_server_queues_one(
    evals: EvalHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    await evals.put(CASE)
    looks, claimable = 0, runs.claimable

    async def look(session: AsyncSession, now: datetime) -> bool | None:
        nonlocal looks
        looks += 1
        return await claimable(session, now)

    monkeypatch.setattr(runs, "claimable", look)
    running = evals.house.app.state.evals.runner
    monkeypatch.setattr(running, "_look_seconds", 0.001)
    running.kick()
    await asyncio.sleep(0.1)
    assert looks <= 2, "the one that it was told to take, and perhaps its first"
    other = await RegistryHouse(evals.registry.data, evals.registry.database_url).open()
    queued = await other.admin.post("/adapters/sql/evals/smoke/runs", json={})
    await other.close()
    assert (await evals.until(queued.json()["id"], "completed"))["score"] == 1.0


async def test_a_run_that_stops_its_server_each_time_is_given_up(evals: EvalHouse) -> None:
    await evals.house.app.state.evals.close()
    await evals.put(CASE)
    queued = await evals.call("POST", "/evals/smoke/runs", {}, 202)
    await _amend(evals, queued["id"], attempts=runs.MAX_ATTEMPTS)
    evals.reopened().runner.start()
    failed = await evals.until(queued["id"], "failed")
    assert (failed["reason"], failed["score"]) == ("Its server was stopped at each attempt.", None)
    assert evals.engine.requests == []


async def test_a_run_that_gets_on_is_not_given_up_however_often_its_server_is_stopped(evals: EvalHouse) -> None:
    await evals.house.app.state.evals.close()
    await evals.put(CASE)
    queued = await evals.call("POST", "/evals/smoke/runs", {}, 202)
    await _amend(evals, queued["id"], attempts=runs.MAX_ATTEMPTS - 1)
    evals.reopened().runner.start()
    await evals.until(queued["id"], "completed")
    assert (await _row(evals, queued["id"])).attempts == 1


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Limits that are spent for an hour for what asks version 2; set when it has asked."""
    waiting = asyncio.Event()
    answer = in_process.answer

    async def refuse_version_2(app: Any, principal: Any, url: str, body: dict[str, Any]) -> Any:
        if body["model"] != "sql@2":
            return await answer(app, principal, url, body)
        waiting.set()
        return JSONResponse({}, 429, {"retry-after": "3600"})

    monkeypatch.setattr(in_process, "answer", refuse_version_2)
    return waiting


async def test_a_run_that_waits_for_limits_leaves_its_turns_to_others(evals: EvalHouse, waiting: asyncio.Event) -> None:
    await evals.put(*MANY)
    stuck = await evals.call("POST", "/evals/smoke/runs", {"version": 2}, 202)
    await waiting.wait()
    assert (await evals.run(version=1))["passed"] == 12
    assert (await evals.call("GET", f"/eval-runs/{stuck['id']}"))["run"]["state"] == "running"


async def test_a_tenants_runs_that_wait_leave_room_for_others_runs(evals: EvalHouse, waiting: asyncio.Event) -> None:
    await evals.put(CASE)
    for _ in range(runner.AT_ONCE + 1):
        await evals.call("POST", "/evals/smoke/runs", {"version": 2}, 202)
    await waiting.wait()
    await evals.registry.keys.tenants.create("test", "acme")
    key = (await evals.registry.keys.create_key("test", name="k", role="tenant", tenant="acme")).key
    headers = {"Authorization": f"Bearer {key}"}
    await evals.http.post("/api/v1/adapters", json={"name": "mine"}, headers=headers)
    mine = "/api/v1/adapters/mine"
    await evals.http.put(f"{mine}/evals/smoke", json={"cases": [CASE]}, headers=headers)
    queued = (await evals.http.post(f"{mine}/evals/smoke/runs", json={"model": "base"}, headers=headers)).json()
    path = f"{mine}/eval-runs/{queued['id']}"
    async with asyncio.timeout(30):
        while (found := (await evals.http.get(path)).json()["run"])["score"] is None:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
    assert (found["state"], found["score"]) == ("completed", 1.0)
    states = [run["state"] for run in (await evals.call("GET", "/eval-runs"))["items"]]
    assert states.count("running") == runs.AT_ONCE_OF_A_TENANT


async def test_all_runs_together_take_half_of_the_engines_places(evals: EvalHouse) -> None:
    evals.engine.hangs = True
    await evals.put(*MANY)
    for version in (1, 2):
        queued = await evals.call("POST", "/evals/smoke/runs", {"version": version}, 202)
        await evals.until(queued["id"], "running")
    await _asked(evals, READY.max_num_seqs // 2)
    for _ in range(3):  # the second run has had the time to ask
        await evals.call("GET", "/eval-runs")
    assert len(evals.engine.requests) == READY.max_num_seqs // 2


async def test_a_claim_that_is_being_written_as_the_server_stops_is_given_back(
    evals: EvalHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    evals_service = evals.house.app.state.evals
    written, go_on = asyncio.Event(), asyncio.Event()
    write = evals.registry.database.write

    async def slow(actor: str, work: Any) -> Any:
        result = await write(actor, work)
        if isinstance(result, runs.ClaimedRun):
            written.set()
            await go_on.wait()
        return result

    await evals.put(CASE)
    monkeypatch.setattr(evals.registry.database, "write", slow)
    queued = await evals.call("POST", "/evals/smoke/runs", {}, 202)
    await written.wait()
    closing = asyncio.create_task(evals_service.close())
    await asyncio.sleep(0)
    go_on.set()
    await closing
    row = await _row(evals, queued["id"])
    assert (row.state, row.lease_owner, row.attempts) == ("queued", None, 0)
    assert evals.engine.requests == []


async def test_a_claim_of_a_run_that_this_process_held_is_another_lease(evals: EvalHouse) -> None:
    evals.engine.hangs = True
    await evals.put(CASE)
    queued = await evals.call("POST", "/evals/smoke/runs", {}, 202)
    await _asked(evals, 1)
    first = await _row(evals, queued["id"])
    await _amend(evals, queued["id"], lease_until=datetime.now(UTC) - timedelta(seconds=1))
    evals.house.app.state.evals.runner.kick()
    await _asked(evals, 2)
    second = await _row(evals, queued["id"])
    assert second.attempts == 2
    assert second.lease_owner not in {None, first.lease_owner}
    assert evals.engine.aborted == [evals.engine.requests[0].id], "the attempt that lost its lease ends"
    evals.engine.hangs = False


async def test_a_judge_can_only_grade_and_a_judge_that_is_not_there_is_an_error(evals: EvalHouse) -> None:
    rubric = {"type": "judge", "model": "base", "rubric": "Is it a number?", "min_grade": 8}
    await evals.put({**CASE, "checks": [rubric]}, {**CASE, "checks": [{**rubric, "model": "gone"}]})
    evals.engine.reply = "8"
    run = await evals.run()
    assert (run["passed"], run["errors"]) == (1, 1)
    good, bad = await evals.results(run["id"])
    assert good["checks"] == [{"type": "judge", "passed": True, "detail": "grade 8 of 10, 8 is enough"}]
    assert bad["outcome"] == "error"
    assert "gone" in bad["checks"][0]["detail"]
    grading = [request for request in evals.engine.requests if request.grammar]
    assert len(grading) == 1
    assert grading[0].background
    assert "Is it a number?" in evals.house.services.model.tokenizer.decode(grading[0].prompt_token_ids)


async def test_what_the_gateway_refuses_is_an_error_of_that_prompt_alone(evals: EvalHouse) -> None:
    await evals.put(CASE, {**CASE, "prompt": "x" * 300})
    run = await evals.run()
    assert (run["state"], run["passed"], run["errors"], run["score"]) == ("completed", 1, 1, 0.5)
    assert "256" in (await evals.results(run["id"]))[1]["checks"][0]["detail"]


async def test_no_more_runs_wait_than_an_adapter_may_have(evals: EvalHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "MAX_UNFINISHED", 1)
    evals.engine.hangs = True
    await evals.put(CASE)
    await evals.call("POST", "/evals/smoke/runs", {}, 202)
    assert "cancel" in (await evals.call("POST", "/evals/smoke/runs", {}, 409))["detail"]
