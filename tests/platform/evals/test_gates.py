"""An eval with a score to reach: which moves it refuses, in which words, and which it leaves alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.platform.evals.conftest import CASE, EvalHouse
from tests.platform.registry.house import adapter_files

from multiflora_platform.registry.changes import rollouts
from multiflora_platform.registry.changes.rollout_observations import RequestOutcome

MISSED = {"prompt": "Bye", "max_tokens": 20, "checks": [{"type": "exact", "text": "Goodbye"}]}


@pytest.fixture
def backend() -> str:
    return "sqlite"


async def _move(evals: EvalHouse, target: dict[str, Any], status: int = 200, alias: str = "default") -> Any:
    etag = await evals.registry.etag("sql", alias) if alias == "default" else ""
    return await evals.call("PUT", f"/aliases/{alias}", target, status, headers={"If-Match": etag} if etag else {})


async def test_no_version_is_promoted_before_it_has_the_score(evals: EvalHouse) -> None:
    await evals.put(CASE, MISSED, min_score=0.9)
    refused = await _move(evals, {"version": 2}, 409)
    assert refused["type"].endswith("eval-gate")
    assert (refused["eval"], refused["score"], refused["min_score"]) == ("smoke", None, 0.9)
    assert "multiflora evals run sql smoke --version 2" in refused["detail"]
    run = await evals.run(version=2)
    refused = await _move(evals, {"version": 2}, 409)
    assert (refused["score"], refused["run"]) == (0.5, run["id"])
    assert refused["detail"].startswith("Version 2 scored 0.50 (1 of 2): eval 'smoke' (version 1) asks for 0.90")
    await _move(evals, {"split": {"1": 90, "2": 10}}, 409)
    await _move(evals, {"version": 2}, 201, alias="staging")
    await evals.put(CASE, status=200, min_score=0.9)  # another version of the set: the old score does not count
    assert (await _move(evals, {"version": 2}, 409))["eval_version"] == 2
    await evals.run(version=2)
    await _move(evals, {"split": {"1": 90, "2": 10}})
    await _move(evals, {"version": 2})
    await evals.call("POST", "/aliases/default:rollback")  # version 1 was never run: going back asks for nothing
    await evals.call("PATCH", "/evals/smoke", {"min_score": None})
    await _move(evals, {"version": 3})


async def test_a_rollout_may_begin_and_is_not_promoted_without_the_score(evals: EvalHouse) -> None:
    await evals.put(CASE, min_score=1)
    etag = await evals.registry.etag("sql", "default")
    started = {"candidate": 2, "percent": 10}
    await evals.call("POST", "/aliases/default/rollout", started, 201, headers={"If-Match": etag})
    refused = await evals.call("POST", "/aliases/default/rollout:promote", status=409)
    assert refused["eval"] == "smoke"
    assert (await evals.call("GET", "/aliases/default/rollout"))["state"] == "running"
    await evals.run(version=2)
    assert (await evals.call("POST", "/aliases/default/rollout:promote"))["state"] == "promoted"


async def test_a_promotion_is_undone_whatever_the_stable_version_scored(evals: EvalHouse) -> None:
    await evals.put(CASE, min_score=1)
    await evals.run(version=2)
    etag = await evals.registry.etag("sql", "default")
    started = {"candidate": 2, "percent": 10}
    await evals.call("POST", "/aliases/default/rollout", started, 201, headers={"If-Match": etag})
    await evals.call("POST", "/aliases/default/rollout:promote")
    await _move(evals, {"split": {"1": 90, "3": 10}}, 409)
    await _move(evals, {"split": {"1": 90, "2": 10}})  # version 1 was never run


async def test_a_rollouts_candidate_is_not_served_already(evals: EvalHouse) -> None:
    await evals.put(CASE, min_score=1)
    etag = await evals.registry.etag("sql", "default")
    started = {"candidate": 2, "percent": 10}
    await evals.call("POST", "/aliases/default/rollout", started, 201, headers={"If-Match": etag})
    for moved in ({"version": 2}, {"split": {"1": 50, "2": 50}}):
        assert (await _move(evals, moved, 409))["eval"] == "smoke"
    assert (await evals.call("GET", "/aliases/default/rollout"))["state"] == "running"
    await evals.run(version=2)
    await _move(evals, {"split": {"1": 50, "2": 50}})
    assert (await evals.call("GET", "/aliases/default/rollout"))["state"] == "superseded"


async def test_a_rollout_that_went_through_its_steps_waits_for_the_score(
    evals: EvalHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollouts, "_AGAIN_SECONDS", 0.05)
    await evals.put(CASE, min_score=1)
    etag = await evals.registry.etag("sql", "default")
    started = {"candidate": 2, "steps": [50], "step_seconds": 0.01, "min_samples": 1}
    await evals.call("POST", "/aliases/default/rollout", started, 201, headers={"If-Match": etag})
    registry = evals.registry.registry
    entry = registry.adapter("sql").aliases["default"].rollout
    assert entry is not None
    registry.rollouts.observe(entry, 2, RequestOutcome(ok=True, seconds=0.1))
    async with asyncio.timeout(20):
        while (found := await evals.call("GET", "/aliases/default/rollout"))["reason"] is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert found["reason"].startswith("waits: Version 2 has no score yet: eval 'smoke'")
        assert (found["state"], found["percent"]) == ("running", 50)
        await evals.run(version=2)
        while (found := await evals.call("GET", "/aliases/default/rollout"))["state"] == "running":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert (found["state"], found["reason"]) == ("promoted", "went through all steps")


async def test_an_upload_that_would_be_the_default_is_ready_and_is_not(evals: EvalHouse) -> None:
    await evals.put(CASE, min_score=0.5)
    made = await evals.registry.upload("sql", adapter_files(8), params={"promote": "true"})
    assert (made.status_code, made.json()["state"]) == (201, "ready")
    assert (await evals.call("GET", ""))["aliases"]["default"] == {"version": 1}
    rows = (await evals.call("GET", "/versions/4/validation"))["rows"]
    (row,) = [row for row in rows if row["check"] == "eval-gate"]
    assert row["severity"] == "warning"
    assert "--version 4" in row["message"]


async def test_metrics_stay_with_the_version_and_are_bounded(evals: EvalHouse) -> None:
    made = await evals.registry.upload("sql", adapter_files(8), data={"metadata": '{"metrics": {"eval_loss": 0.31}}'})
    assert made.json()["metrics"] == {"eval_loss": 0.31}
    changed = await evals.call("PATCH", "/versions/4", {"metrics": {"exact match": 87}})
    assert changed["metrics"] == {"exact match": 87}
    for wrong in ({"": 1}, {"a": "b"}, {"a": None}, {"a": True}, dict.fromkeys(map(str, range(65)), 1)):
        await evals.call("PATCH", "/versions/4", {"metrics": wrong}, 400)
    await evals.call("DELETE", "/versions/4")
    await evals.call("POST", "/versions/4:purge", status=204)


async def test_a_purged_version_leaves_no_answers(evals: EvalHouse) -> None:
    await evals.put(CASE)
    await evals.run(version=3)
    await evals.run(version=2)
    await evals.call("DELETE", "/versions/3")
    await evals.call("POST", "/versions/3:purge", status=204)
    assert [run["version"] for run in (await evals.call("GET", "/eval-runs"))["items"]] == [2]
