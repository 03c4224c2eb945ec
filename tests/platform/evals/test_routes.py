"""Sets and runs over HTTP: versions of sets, what is asked of which model, and who may see it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from tests.platform.evals.conftest import CASE, EvalHouse
from tests.platform.gateway.house import READY, FakeClient
from tests.platform.registry.house import adapter_files, base_model

from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.replica import EngineReplica
from multiflora_platform.groups import Group
from multiflora_platform.registry.serving.base_links import BaseLink


@pytest.fixture
def backend() -> str:
    return "sqlite"


CHAT = {
    "max_tokens": 20,
    "messages": [{"role": "user", "content": "Sum?"}],
    "checks": [{"type": "number", "value": 42}],
    "name": "sum",
}
BAD = {"prompt": "Bye", "checks": [{"type": "exact", "text": "Goodbye"}], "max_tokens": 7}


async def test_a_run_asks_every_prompt_behind_all_others_and_scores_it(evals: EvalHouse) -> None:
    made = await evals.put(CASE, CHAT, BAD)
    assert (made["version"], made["min_score"], made["aliases"]) == (1, None, ["default"])
    run = await evals.run(version=2)
    assert {key: run[key] for key in ("state", "passed", "failed", "errors", "version", "model", "eval_version")} == {
        "state": "completed",
        "passed": 2,
        "failed": 1,
        "errors": 0,
        "version": 2,
        "model": "sql@2",
        "eval_version": 1,
    }
    assert run["score"] == pytest.approx(2 / 3)
    results = await evals.results(run["id"])
    assert [one["outcome"] for one in results] == ["passed", "passed", "failed"]
    assert (results[1]["name"], results[1]["question"], results[1]["answer"]) == ("sum", "Sum?", "Hello, 42")
    assert results[2]["answer"] == "Hello, "  # seven bytes
    assert results[2]["checks"] == [{"type": "exact", "passed": False, "detail": "it is not 'Goodbye'"}]
    assert await evals.call("GET", f"/eval-runs/{run['id']}?results=false") == {"run": run, "items": []}
    assert len(evals.engine.requests) == 3
    digest = (await evals.call("GET", "/versions/2"))["digest"]
    for request in evals.engine.requests:
        assert request.background
        assert request.priority >= 1000
        assert request.params.is_greedy
        assert request.adapter_digest == digest


async def test_other_cases_are_another_version_and_the_same_are_not(evals: EvalHouse) -> None:
    await evals.put(CASE)
    assert (await evals.put(CASE, status=200, description="hello"))["version"] == 1
    second = await evals.put(CASE, BAD, status=200)
    assert (second["version"], second["latest_version"]) == (2, 2)
    first = await evals.call("GET", "/evals/smoke?version=1")
    assert (first["version"], len(first["cases"]), first["cases"][0]["checks"]) == (1, 1, CASE["checks"])
    assert first["etag"] != second["etag"]
    assert (await evals.run(set_version=1))["total"] == 1
    assert (await evals.run())["total"] == 2
    (listed,) = (await evals.call("GET", "/evals"))["items"]
    assert (listed["name"], listed["version"], listed["cases"]) == ("smoke", 2, 2)
    await evals.call("GET", "/evals/smoke?version=3", status=404)


async def test_scores_over_time_and_the_matrix_of_versions(evals: EvalHouse) -> None:
    await evals.put(CASE, BAD)
    await evals.run(version=1)
    evals.engine.reply = "Goodbye"
    for version in (1, 3):
        await evals.run(version=version)
    await evals.run(model="base")
    history = (await evals.call("GET", "/eval-runs?eval=smoke&version=1"))["items"]
    assert [run["passed"] for run in history] == [1, 1]
    assert history[0]["id"] > history[1]["id"]
    page = await evals.call("GET", "/eval-runs?limit=3")
    rest = await evals.call("GET", f"/eval-runs?limit=3&page_token={page['next_page_token']}")
    assert len(page["items"]) == 3
    assert len(rest["items"]) == 1
    matrix = await evals.call("GET", "/evals/smoke/matrix")
    assert [run["model"] for run in matrix["runs"]] == ["sql@1", "sql@3", "base"]
    assert [row["outcomes"] for row in matrix["rows"]] == [["failed"] * 3, ["passed"] * 3]


async def test_two_runs_side_by_side_across_versions_of_the_set(evals: EvalHouse) -> None:
    await evals.put(CASE, BAD)
    left = await evals.run(version=1)
    await evals.put(BAD, CHAT, CASE, status=200)
    evals.engine.reply = "Goodbye"
    right = await evals.run(version=2)
    found = await evals.call("GET", f"/eval-runs:compare?left={left['id']}&right={right['id']}")
    assert (found["better"], found["worse"], found["same"]) == (1, 1, 0)
    assert [(one["question"], one["change"]) for one in found["items"]] == [
        ("Bye", "better"),
        ("Sum?", "new"),
        ("Say hello", "worse"),
    ]
    assert found["items"][0]["left"]["answer"] == "Hello, "
    assert found["items"][1]["left"] is None


async def test_prompts_are_paired_by_what_is_asked_and_checked_in_the_sets_order(evals: EvalHouse) -> None:
    cases = [{**CASE, "prompt": f"Say hello, {number}"} for number in range(9)]
    schema = {"type": "json_schema", "schema": {"type": "object", "minProperties": 1}}
    renamed = {"type": "json_schema", "schema": {"minProperties": 1, "type": "object"}}
    await evals.put({**CASE, "checks": [schema]}, *cases)
    left = await evals.run(version=1)
    await evals.put({**CASE, "checks": [renamed], "name": "greeting", "max_tokens": 30}, BAD, status=200)
    right = await evals.run(version=2)
    found = await evals.call("GET", f"/eval-runs:compare?left={left['id']}&right={right['id']}")
    assert [(one["question"], one["change"]) for one in found["items"]] == [
        ("Say hello", "same"),
        ("Bye", "new"),
        *[(case["prompt"], "new") for case in cases],
    ]


async def test_events_tell_of_a_run_by_its_number(evals: EvalHouse) -> None:
    await evals.put(CASE)
    run = await evals.run()
    events = (await evals.http.get("/api/v1/events", params={"limit": 1000})).json()["items"]
    told = [(event["type"], event["payload"]["run"]) for event in events if event["type"].startswith("eval.run_")]
    assert told == [("eval.run_queued", run["id"]), ("eval.run_completed", run["id"])]


async def test_a_mix_is_asked_with_the_versions_of_this_moment(evals: EvalHouse) -> None:
    await evals.registry.adapter("math", 9)
    await evals.put(CASE)
    run = await evals.run(adapters=[{"name": "sql", "weight": 0.5}, {"name": "math@1"}], combination="linear")
    assert (run["state"], run["version"], run["model"]) == ("completed", None, "base")
    assert run["mix"]["adapters"] == [{"name": "sql@1", "weight": 0.5}, {"name": "math@1"}]
    (request,) = evals.engine.requests
    assert request.adapter_digest == run["digest"]
    assert run["digest"].count("*") == 2  # both parts, each with its weight


async def test_a_mix_is_asked_on_the_base_model_of_its_parts(evals: EvalHouse) -> None:
    """Though the set's adapter has versions of another one, too."""
    services, registry = evals.house.services, evals.registry.registry
    default = services.groups.default
    client = FakeClient(default.model.tokenizer, reply="Hello from the twin", ready=READY)
    supervisor = SimpleNamespace(client=client, state="ready", restarts=0, pid=None)
    model = replace(default.model, name="twin", root="org/twin")
    twin = Group(model, "d" * 64, Fleet([EngineReplica("twin-0", supervisor)]), default.grammars)  # type: ignore[arg-type]
    services.groups.add(twin)
    await registry.add_base(BaseLink(replace(base_model("d" * 64), name="twin")), ["twin"])
    for name, seed in (("sql", 4), ("poet", 5)):
        await evals.registry.admin.post("/adapters", json={"name": "poet"})
        made = await evals.registry.upload(name, adapter_files(seed, base_model_name_or_path="org/twin"))
        assert made.json()["base_digest"] == "d" * 64
    await evals.put(CASE)
    run = await evals.run(adapters=[{"name": "sql@4", "weight": 0.5}, {"name": "poet", "weight": 0.5}])
    assert (run["state"], run["model"], run["passed"]) == ("completed", "twin", 1)
    run = await evals.run(adapters=[{"name": "sql@1", "weight": 0.5}, {"name": "sql@2", "weight": 0.5}])
    assert (run["model"], len(client.requests), len(evals.engine.requests)) == ("base", 1, 1)
    missing = await evals.call("POST", "/evals/smoke/runs", {"adapters": [{"name": "none"}]}, 404)
    assert missing["errors"][0]["pointer"] == "/adapters/0/name"


async def test_an_alias_is_read_once_and_a_split_is_refused(evals: EvalHouse) -> None:
    await evals.put(CASE)
    assert (await evals.run(model="sql@default"))["model"] == "sql@1"
    etag = await evals.registry.etag("sql", "default")
    await evals.call("PUT", "/aliases/default", {"split": {"1": 50, "2": 50}}, headers={"If-Match": etag})
    refused = await evals.call("POST", "/evals/smoke/runs", {}, 400)
    assert "split" in refused["detail"]


NOT_ASKED: list[tuple[dict[str, Any], int]] = [
    ({"version": 9}, 404),
    ({"model": "nothing"}, 404),
    ({"version": 1, "model": "base"}, 400),
    ({"version": 0}, 400),
    ({"adapters": []}, 400),
    ({"adapters": [{"name": "sql", "weight": 0}]}, 400),
    ({"adapters": [{"name": "sql"}, {"name": "sql@2"}], "combination": "blend"}, 400),
    ({"set_version": 2}, 404),
    ({"versions": 1}, 400),
]


async def test_what_cannot_be_asked_is_refused_before_it_is_queued(evals: EvalHouse) -> None:
    await evals.put(CASE)
    for target, status in NOT_ASKED:
        await evals.call("POST", "/evals/smoke/runs", target, status)
    assert (await evals.call("GET", "/eval-runs"))["items"] == []


NO_CASES: list[tuple[dict[str, Any], str]] = [
    ({**CASE, "messages": [{"role": "user", "content": "x"}]}, "/cases/0"),
    ({"checks": CASE["checks"]}, "/cases/0"),
    ({"prompt": "x", "checks": []}, "/cases/0/checks"),
    ({**CASE, "max_tokens": 0}, "/cases/0/max_tokens"),
    ({**CASE, "prompt": "\0"}, "/cases/0/prompt"),
    ({**CASE, "name": "x" * 201}, "/cases/0/name"),
    ({"prompt": "x", "checks": [{"type": "judge", "model": "\0", "rubric": "x"}]}, "/cases/0/checks/0/model"),
    ({"prompt": "x", "checks": [{"type": "regex", "pattern": "("}]}, "/cases/0/checks/0/pattern"),
    ({"prompt": "x", "checks": [{"type": "json_schema", "schema": {"type": "strange"}}]}, "/cases/0/checks/0/schema"),
    ({"prompt": "x", "checks": [{"type": "contains", "text": ""}]}, "/cases/0/checks/0/text"),
    ({"prompt": "x", "checks": [{"type": "regex", "pattern": ""}]}, "/cases/0/checks/0/pattern"),
    ({"prompt": "x", "checks": [{"type": "judge", "model": "", "rubric": "x"}]}, "/cases/0/checks/0/model"),
    ({"prompt": "x", "checks": [{"type": "number", "value": 1, "tolerance": -1}]}, "/cases/0/checks/0/tolerance"),
    ({"prompt": "x", "checks": [{"type": "magic"}]}, "/cases/0/checks/0/type"),
]


async def test_what_is_no_eval_is_refused_at_its_place(evals: EvalHouse) -> None:
    for case, place in NO_CASES:
        refused = await evals.put(case, status=400)
        assert refused["errors"][0]["pointer"] == place, case


async def test_a_refusal_says_where_in_a_sentence(evals: EvalHouse) -> None:
    told = [(await evals.put(case, status=400))["detail"] for case in ({"prompt": "x"}, {**CASE, "max_tokens": "x"})]
    assert told == ["cases[0].checks is required.", "cases[0].max_tokens: expected int, got str."]
    await evals.put(*[CASE] * 501, status=400)


async def test_evals_are_their_owners(evals: EvalHouse) -> None:
    tenant = evals.registry.client(None)
    await evals.registry.keys.tenants.create("test", "acme")
    key = (await evals.registry.keys.create_key("test", name="k", role="tenant", tenant="acme")).key
    await evals.put(CASE)
    await evals.run()
    headers = {"Authorization": f"Bearer {key}"}
    for path in ("/evals", "/evals/smoke", "/evals/smoke/matrix", "/eval-runs", "/eval-runs/1"):
        await evals.call("GET", path, status=404, headers=headers)
    await evals.call("PUT", "/evals/smoke", {"cases": [CASE]}, 403, headers=headers)
    await evals.call("POST", "/evals/smoke/runs", {}, 403, headers=headers)
    await tenant.aclose()
    own = "/api/v1/adapters/mine"
    assert (await evals.http.post("/api/v1/adapters", json={"name": "mine"}, headers=headers)).status_code == 201
    made = await evals.http.put(f"{own}/evals/smoke", json={"cases": [CASE]}, headers=headers)
    assert (made.status_code, made.json()["created_by"].partition("/")[0]) == (201, "acme")


async def test_a_set_goes_with_its_runs_and_needs_the_etag_that_it_is_told(evals: EvalHouse) -> None:
    made = await evals.put(CASE)
    run = await evals.run()
    await evals.call("PATCH", "/evals/smoke", {"min_score": 0.5}, headers={"If-Match": made["etag"]})
    await evals.call("PATCH", "/evals/smoke", {"min_score": 0.6}, 412, headers={"If-Match": made["etag"]})
    await evals.call("DELETE", "/evals/smoke", status=204)
    await evals.call("GET", f"/eval-runs/{run['id']}", status=404)
    await evals.call("GET", "/evals/smoke", status=404)
    actions = {row["action"] for row in (await evals.http.get("/api/v1/audit")).json()["items"]}
    assert {"eval.created", "eval.changed", "eval.deleted", "eval.run_queued", "eval.run_completed"} <= actions


async def test_a_case_is_added_to_a_set_or_makes_one(evals: EvalHouse) -> None:
    made = await evals.call("POST", "/evals/seen/cases", CASE, 201)
    assert (made["version"], len(made["cases"]), made["min_score"]) == (1, 1, None)
    await evals.call("PATCH", "/evals/seen", {"min_score": 0.5, "description": "seen"})
    again = await evals.call("POST", "/evals/seen/cases", CASE)
    assert (again["version"], len(again["cases"])) == (1, 1)
    more = await evals.call("POST", "/evals/seen/cases", CHAT)
    assert (more["version"], len(more["cases"]), more["min_score"], more["description"]) == (2, 2, 0.5, "seen")
    for case, pointer in (
        ({**CASE, "max_tokens": 0}, "/max_tokens"),
        ({**CASE, "checks": [{"type": "regex", "pattern": "("}]}, "/checks/0/pattern"),
    ):
        refused = await evals.call("POST", "/evals/seen/cases", case, 400)
        assert refused["errors"][0]["pointer"] == pointer
    await evals.put(*[{**CASE, "prompt": str(number)} for number in range(500)], name="full")
    await evals.call("POST", "/evals/full/cases", CASE, 400)
