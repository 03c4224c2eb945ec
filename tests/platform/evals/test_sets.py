"""Sets, runs and results on both databases."""

from __future__ import annotations

from tests.platform.evals.conftest import CASE, EvalHouse


async def test_the_life_of_a_set_and_a_run(evals: EvalHouse) -> None:
    await evals.put(CASE, min_score=0.5, aliases=["default", "live", "live"])
    evals.engine.reply = "Hello\0"
    run = await evals.run(version=2)
    assert run["score"] == 1.0
    assert (await evals.results(run["id"]))[0]["answer"].startswith("Hello")
    assert (await evals.call("GET", "/evals"))["items"][0]["aliases"] == ["default", "live"]
    matrix = await evals.call("GET", "/evals/smoke/matrix")
    assert [one["outcomes"] for one in matrix["rows"]] == [["passed"]]
    await evals.call("DELETE", "/evals/smoke", status=204)
    assert (await evals.call("GET", "/eval-runs"))["items"] == []
