"""What an operator does first, from beginning to end, in a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Route
from tests.e2e.browser.window import Window
from tests.e2e.conftest import Server

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PROMPT = "Show the name and price of all products with a price above 40, highest price first."
EXTRACT = Path(__file__).parents[3] / "examples/demo/adapters/extract"
# From now on, how many rows of tables the comparison of texts makes.
COUNT_ROWS = """() => {
    const Row = Uint16Array;
    window.rows = 0;
    window.Uint16Array = function (length) { window.rows += 1; return new Row(length); };
}"""


def register(window: Window, name: str, folder: Path) -> None:
    page = window.open(f"/register?name={name}")
    page.get_by_label("Adapter files", exact=True).set_input_files(
        [folder / "adapter_config.json", folder / "adapter_model.safetensors"]
    )
    page.get_by_role("button", name="Register", exact=True).click()
    page.get_by_text(re.compile(r"@\d+ is ready")).wait_for()


def test_register_compare_roll_out_and_back(window: Window, shop: Server, adapter_folder: Path) -> None:
    page = window.open("/register")
    page.get_by_label("Adapter", exact=True).fill("shop-sql")
    page.get_by_label("Description").fill("Questions about a shop")
    page.get_by_label("Adapter files", exact=True).set_input_files([adapter_folder / "adapter_config.json"])
    page.get_by_role("button", name="Register", exact=True).click()
    page.get_by_text("adapter_model.safetensors is missing").wait_for()
    page.get_by_label("Adapter files", exact=True).set_input_files(
        [adapter_folder / "adapter_config.json", adapter_folder / "adapter_model.safetensors"]
    )
    page.get_by_label("Alias to set").fill("canary")
    page.get_by_role("button", name="Register", exact=True).click()
    page.get_by_text("shop-sql@1 is ready").wait_for()
    page.get_by_text("belong to 28 modules of the base").wait_for()

    page = window.open("/playground?model=shop-sql@canary&model=multiflora-demo")
    page.get_by_label("Message").fill(PROMPT)
    page.get_by_label("Show the difference to the base").check()
    page.get_by_role("button", name="Run").click()
    adapter = page.get_by_role("region", name="Answer of shop-sql@canary")
    adapter.get_by_text("SELECT").first.wait_for()
    adapter.get_by_text(re.compile(r"[1-9]\d* of \d+ tokens at least twice as likely")).wait_for()
    base = page.get_by_role("region", name="Answer of multiflora-demo")
    base.get_by_text(re.compile(r"0 of \d+ tokens at least twice as likely")).wait_for()
    assert "SELECT name, price FROM products" in adapter.locator(".text").inner_text()
    assert "SELECT" not in base.locator(".text").inner_text()

    register(window, "shop-sql", EXTRACT)
    page = window.open("/adapters/shop-sql?tab=aliases")
    default = page.get_by_role("region", name="default")
    default.get_by_role("button", name="Change…").click()
    default.get_by_role("button", name="10%").click()
    default.get_by_role("button", name="Save").click()
    window.toast("default now means v1 90% · v2 10%")
    with shop.http() as http:
        assert http.get("/api/v1/adapters/shop-sql").json()["aliases"]["default"] == {"split": {"1": 90, "2": 10}}
        default.get_by_role("button", name="Roll back").click()
        window.toast("default is back on version 1")
        assert http.get("/api/v1/adapters/shop-sql").json()["aliases"]["default"] == {"version": 1}
        page.locator(".toast", has_text="is back on").get_by_role("button", name="Undo").click()
        window.toast("Moved back.")
        assert http.get("/api/v1/adapters/shop-sql").json()["aliases"]["default"] == {"split": {"1": 90, "2": 10}}
    window.open("/adapters?q=shop-sql").get_by_role("table").get_by_text("v1 90% · v2 10%").wait_for()
    page = window.open("/adapters/shop-sql")
    page.get_by_label("At a glance").get_by_text("v1 90% · v2 10%").wait_for()
    page.get_by_role("row", name="v2 ready").get_by_text("default 10%").wait_for()
    with page.expect_download() as download:
        page.get_by_role("row", name="v2 ready").get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "shop-sql-2.tar"


def test_what_differs_between_versions_is_shown_and_what_is_well_is_folded(window: Window, shop: Server) -> None:
    with shop.http() as http:
        assert http.post("/api/v1/adapters", json={"name": "differing"}).status_code == 201
        for alpha in (4, 8):
            config = json.loads((EXTRACT / "adapter_config.json").read_text()) | {"lora_alpha": alpha}
            files = {
                "adapter_config.json": json.dumps(config).encode(),
                "adapter_model.safetensors": (EXTRACT / "adapter_model.safetensors").read_bytes(),
                "README.md": f"# Card of alpha {alpha}".encode(),
            }
            parts = [("files", (name, data)) for name, data in files.items()]
            assert http.post("/api/v1/adapters/differing/versions", files=parts).status_code == 201
    page = window.open("/adapters/differing")
    side = page.get_by_role("region", name="Side by side")
    side.get_by_role("rowheader", name="Alpha").wait_for()
    assert side.get_by_role("rowheader", name="Rank").count() == 0
    side.get_by_role("button", name="All", exact=True).click()
    side.get_by_role("rowheader", name="Rank").wait_for()
    validation = page.get_by_role("region", name="Validation of version 2")
    row = validation.get_by_text("All values are finite.")
    row.wait_for(state="hidden")
    validation.get_by_text("5 checks").click()
    row.wait_for()
    page = window.open("/adapters/differing?tab=card")
    page.get_by_text("Card of alpha 8").wait_for()
    page.get_by_role("combobox", name="Version").select_option("v1")
    page.get_by_text("Card of alpha 4").wait_for()
    page.wait_for_url("**/ui/adapters/differing?tab=card&card=1")


def test_a_watched_rollout_is_started_and_promoted(window: Window, shop: Server, adapter_folder: Path) -> None:
    for folder in (adapter_folder, EXTRACT):
        register(window, "watched", folder)
    page = window.open("/adapters/watched?tab=aliases")
    page.get_by_role("button", name="Start a watched rollout…").click()
    page.get_by_label("Users that get it, %").fill("25")
    page.get_by_label("Steps by itself, %").fill("1, ten")
    page.get_by_role("button", name="Start", exact=True).click()
    page.get_by_text("Steps are whole percentages that grow").wait_for()
    page.get_by_label("Steps by itself, %").fill("")
    page.get_by_label("Why", exact=True).fill("smaller and faster")
    page.get_by_role("button", name="Start", exact=True).click()
    window.toast("25% of default's users get v2")
    rollout = page.get_by_role("region", name="Rollout")
    late: list[Route] = []
    aliases = "**/adapters/watched/aliases"
    page.route(aliases, lambda route: late.append(route))
    with page.expect_request(aliases):
        rollout.get_by_role("button", name="50%").click()
    window.toast("50% get v2.")
    rollout.get_by_text("0 of 20 samples").wait_for()
    rollout.get_by_role("button", name="Promote").click()
    # What the new share brings arrives under the open question.
    with page.expect_response(aliases):
        late[0].continue_()
    with page.expect_response("**/rollouts?limit=1"):
        page.unroute(aliases)
    page.get_by_role("button", name="Promote anyway").click()
    window.toast("v2 is for everybody")
    rollout.get_by_text("promoted").wait_for()
    rollout.get_by_text(re.compile(r"Started by admin/.*: smaller and faster")).wait_for()
    with shop.http() as http:
        assert http.get("/api/v1/adapters/watched").json()["aliases"]["default"] == {"version": 2}
        page.locator(".toast", has_text="is for everybody").get_by_role("button", name="Undo").click()
        window.toast("default means v1 50% · v2 50% again.")
        assert http.get("/api/v1/adapters/watched").json()["aliases"]["default"] == {"split": {"1": 50, "2": 50}}


def test_a_rollouts_card_draws_both_versions_and_the_bound(window: Window, shop: Server, adapter_folder: Path) -> None:
    for folder in (adapter_folder, EXTRACT):
        register(window, "drawn", folder)
    with shop.http() as http:
        path = "/api/v1/adapters/drawn/aliases/default"
        etag = {"If-Match": http.get(path).headers["etag"]}
        body = {"candidate": 2, "percent": 50, "max_p95_seconds": 300}
        assert http.post(f"{path}/rollout", json=body, headers=etag).status_code == 201
        for user in "abcdef":  # some of them get each version
            asked = {"model": "drawn", "prompt": "SELECT", "max_tokens": 1, "user": user}
            assert http.post("/v1/completions", json=asked).status_code == 200
    page = window.open("/adapters/drawn?tab=aliases")
    failed = page.get_by_role("img", name=re.compile("^Share of requests that failed"))
    failed.wait_for()
    assert "v2, candidate 0%, rolls back above 5.0%" in (failed.get_attribute("aria-label") or "")
    slow = page.get_by_role("img", name=re.compile("^95th percentile of a request"))
    assert "rolls back above 5 min" in (slow.get_attribute("aria-label") or "")
    slow.locator("canvas").wait_for()


def test_a_split_by_hand_shows_what_its_versions_do(window: Window, shop: Server, adapter_folder: Path) -> None:
    for folder in (adapter_folder, EXTRACT):
        register(window, "halved", folder)
    with shop.http() as http:
        path = "/api/v1/adapters/halved/aliases/default"
        etag = {"If-Match": http.get(path).headers["etag"]}
        assert http.put(path, json={"split": {"1": 50, "2": 50}}, headers=etag).status_code == 200
        page = window.open("/adapters/halved?tab=aliases")
        page.get_by_text("No request has come since it was split.").wait_for()
        for user in "abcdef":
            asked = {"model": "halved", "prompt": "SELECT", "max_tokens": 1, "user": user}
            assert http.post("/v1/completions", json=asked).status_code == 200
        arms = http.get(f"{path}/split").json()["arms"]
    assert sum(arm["observed"]["requests"] for arm in arms) == 6
    page = window.open("/adapters/halved?tab=aliases")
    split = page.get_by_role("region", name="Split")
    for arm in arms:
        row = split.get_by_role("row", name=re.compile(rf"^v{arm['version']} 50% {arm['observed']['requests']} 0 "))
        row.wait_for()


def test_answers_that_differ_become_cases_of_an_eval(window: Window, shop: Server, adapter_folder: Path) -> None:
    for folder in (adapter_folder, EXTRACT):
        register(window, "disputed", folder)
    with shop.http() as http:
        path = "/api/v1/adapters/disputed/aliases/default"
        etag = {"If-Match": http.get(path).headers["etag"]}
        assert http.post(f"{path}/rollout", json={"candidate": 2}, headers=etag).status_code == 201
        page = window.open("/adapters/disputed?tab=aliases")
        page.get_by_text("Answers that differ: 0 of 0").click()
        page.get_by_role("button", name="Copy 10% of them").click()
        window.toast("Copies of 10% of the requests run on v2.")
        assert http.patch(f"{path}/rollout", json={"shadow_percent": 100}).json()["shadow_percent"] == 100
        messages = [{"role": "user", "content": PROMPT}]
        chat = {"model": "disputed", "messages": messages, "max_tokens": 24, "temperature": 0}
        assert http.post("/v1/chat/completions", json=chat).status_code == 200
        page = window.open("/adapters/disputed?tab=aliases")
        page.get_by_text("Answers that differ: 1 of 1").click()
        page.get_by_role("group", name="Prompt").get_by_text(PROMPT).wait_for()
        page.locator(".pairs mark.left", has_text="SELECT name").wait_for()
        page.get_by_role("button", name="v1 is right").click()
        page.get_by_role("link", name="differences").click()
        page.get_by_text("differences, version 1: 1 prompts").wait_for()
        (case,) = http.get("/api/v1/adapters/disputed/evals/differences").json()["cases"]
    assert (case["messages"], case["max_tokens"], case["checks"][0]["type"]) == (messages, 24, "exact")
    assert case["checks"][0]["text"].startswith("SELECT name")


def test_an_eval_is_made_run_and_read_and_its_gate_says_why(window: Window, shop: Server, adapter_folder: Path) -> None:
    for folder in (adapter_folder, EXTRACT):
        register(window, "examined", folder)
    page = window.open("/adapters/examined?tab=evals")
    page.get_by_role("button", name="New eval…").click()
    page.get_by_label("Name", exact=True).fill("smoke")
    page.get_by_label("Score to be promoted, %").fill("90")
    page.get_by_label("Message", exact=True).fill(PROMPT)
    page.get_by_label("Name of the prompt").fill("names")
    page.get_by_label("Max tokens").fill("24")
    page.get_by_label("The answer").select_option("regex")
    page.get_by_label("Pattern").fill("^SELECT (name")
    page.get_by_role("button", name="Save").click()
    page.locator(".field", has=page.get_by_label("Pattern")).get_by_text("This check cannot be run").wait_for()
    assert page.evaluate("document.activeElement.getAttribute('aria-invalid')") == "true"
    page.get_by_label("Pattern").fill("^SELECT name")
    page.get_by_role("button", name="Save").click()
    page.get_by_label("Ask", exact=True).select_option("all")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("button", name="passed: v1, names").wait_for()
    page.get_by_role("button", name="failed: v2, names").click()
    page.get_by_role("dialog").get_by_text("is not found in it").wait_for()
    page.get_by_role("button", name="Close").click()
    page.get_by_role("region", name="Side by side").get_by_text("worse", exact=True).wait_for()
    page.evaluate(COUNT_ROWS)
    # What is changed elsewhere makes the page look at the runs, too, and show what it found.
    for text in ("looked at", "looked at again"):
        with page.expect_response("**/eval-runs?limit=200*"), shop.http() as http:
            assert http.patch("/api/v1/adapters/pirate", json={"description": text}).status_code == 200
    assert page.evaluate("window.rows") == 0, "the same two answers are not compared again"
    page.get_by_role("row", name="examined@1").first.get_by_role("button", name="Run again").click()
    window.toast("The run is queued.")
    page.get_by_label("Ask", exact=True).select_option("other")
    page.get_by_role("combobox", name="Model").fill("mix")
    page.get_by_role("option", name="A mix of adapters…").click()
    for field, name in (("Adapter 1", "sql@1"), ("Adapter 2", "pirate@1")):
        page.get_by_role("combobox", name=field).fill(name)
        page.get_by_role("combobox", name=field).press("Enter")
    page.get_by_role("button", name="Ask this mix").click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("columnheader", name="mix").wait_for()
    page.get_by_role("img", name=re.compile("Scores over time")).wait_for()
    page = window.open("/adapters/examined?tab=aliases")
    page.get_by_role("button", name="Change…").first.click()
    page.get_by_role("button", name="10%").click()
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Version 2 scored 0.00 (0 of 1): eval 'smoke'").first.wait_for()
    window.errors = [error for error in window.errors if "400" not in error and "409" not in error]


CASES = [
    {"prompt": "6 times 7?", "checks": [{"type": "number", "value": 42, "tolerance": 0.5, "relative": True}]},
    {
        "name": "all",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Explain."}], "name": "ann"},
        ],
        "max_tokens": 9,
        "checks": [
            {"type": "contains", "text": "a", "ignore_case": True},
            {"type": "exact", "text": "b"},
            {"type": "regex", "pattern": "c+"},
            {"type": "json_schema", "schema": {"type": "object"}},
            {"type": "judge", "model": "multiflora-demo", "rubric": "Names both.", "min_grade": 3},
        ],
    },
]


def test_the_form_of_an_eval_keeps_every_kind_of_check(window: Window, shop: Server, adapter_folder: Path) -> None:
    register(window, "formed", adapter_folder)
    with shop.http() as http:
        path = "/api/v1/adapters/formed/evals/all"
        assert http.put(path, json={"cases": CASES}).status_code == 201
        page = window.open("/adapters/formed?tab=evals")
        page.get_by_role("region", name="Eval", exact=True).get_by_role("button", name="Edit…").click()
        page.locator("summary", has_text="6 times 7?").click()
        page.locator("summary", has_text="5 checks").click()
        page.get_by_label("Judge").fill("")
        page.get_by_role("button", name="Save").click()
        page.locator(".field", has=page.get_by_label("Judge")).get_by_text("model is empty").wait_for()
        page.get_by_label("Judge").fill("multiflora-demo")
        page.get_by_label("Schema").fill('{"type": ')
        page.get_by_role("button", name="Save").click()
        page.locator(".field", has=page.get_by_label("Schema")).get_by_text("This is no JSON").wait_for()
        page.get_by_label("Schema").fill('{"type": "object"}')
        page.get_by_role("button", name="JSON", exact=True).click()
        page.get_by_label("Prompts and checks, as JSON").wait_for()
        page.get_by_role("button", name="Form", exact=True).click()
        page.get_by_role("button", name="Save").click()
        page.get_by_role("dialog").wait_for(state="detached")
        kept = http.get(path).json()
        assert (kept["version"], kept["cases"]) == (1, CASES), "saved as it was, it is no other version"
        page.get_by_role("region", name="Eval", exact=True).get_by_role("button", name="Edit…").click()
        page.locator("summary", has_text="6 times 7?").click()
        page.get_by_role("button", name="Remove prompt 1").click()
        page.locator("summary", has_text="5 checks").click()
        page.get_by_role("button", name="Remove check 5").click()
        page.get_by_role("button", name="Save").click()
        page.get_by_role("dialog").wait_for(state="detached")
        (case,) = http.get(path).json()["cases"]
    assert [check["type"] for check in case["checks"]] == ["contains", "exact", "regex", "json_schema"]
    window.errors = [error for error in window.errors if "400" not in error]


def test_how_much_of_an_upload_or_a_source_has_come_is_shown(
    window: Window, shop: Server, adapter_folder: Path
) -> None:
    page = window.open("/register?name=arriving")
    held: list[Route] = []
    page.route("**/adapters/arriving/versions", lambda route: held.append(route))
    files = [adapter_folder / "adapter_config.json", adapter_folder / "adapter_model.safetensors"]
    page.get_by_label("Adapter files", exact=True).set_input_files(files)
    with page.expect_request("**/adapters/arriving/versions"):
        page.get_by_role("button", name="Register", exact=True).click()
    page.get_by_text(re.compile(r"^Uploaded .* of \d+ KiB$")).wait_for()
    held[0].continue_()
    page.unroute("**/adapters/arriving/versions")
    page.get_by_text("arriving@1 is ready").wait_for()

    # The hub never answers; the job says how far it is.
    progress = {"done_bytes": 12 << 20, "total_bytes": None}

    def answer(route: Route) -> None:
        job = route.fetch().json()
        route.fulfill(json={**job, "progress": progress})

    page.route("**/api/v1/jobs/*", answer)
    page.get_by_role("button", name="From a source").click()
    page.get_by_label("Source", exact=True).fill("hf://org/arriving")
    page.get_by_role("button", name="Register", exact=True).click()
    page.get_by_role("listitem").get_by_text("Fetch", exact=True).wait_for()
    page.get_by_text("Fetched 12 MiB", exact=True).wait_for()
    progress["total_bytes"] = 40 << 20
    page.get_by_text("Fetched 12 MiB of 40 MiB").wait_for()
    page.get_by_role("img", name="Fetched: 30%").wait_for()
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_text("Cancelled. Nothing was registered.").wait_for()
    with shop.http() as http:
        assert http.get("/api/v1/jobs?state=cancelled").json()["items"][0]["adapter"] == "arriving"


def test_a_rejected_version_says_what_to_do(window: Window, adapter_folder: Path) -> None:
    config = adapter_folder / "adapter_config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"r": 16', '"r": 512'), encoding="utf-8")
    page = window.open("/register")
    page.get_by_label("Adapter", exact=True).fill("too-large")
    page.get_by_label("Adapter files", exact=True).set_input_files(
        [config, adapter_folder / "adapter_model.safetensors"]
    )
    page.get_by_role("button", name="Register", exact=True).click()
    page.get_by_text("Not registered").wait_for()
    page.locator(".report .badge.bad").first.wait_for()
    page.get_by_text("Next:").first.wait_for()
    window.errors = [error for error in window.errors if "422" not in error]


def test_a_version_says_where_it_comes_from_and_must_pass_its_evals(
    window: Window, shop: Server, adapter_folder: Path
) -> None:
    page = window.open("/register?name=judged-here")
    page.get_by_label("Adapter files", exact=True).set_input_files(
        [adapter_folder / "adapter_config.json", adapter_folder / "adapter_model.safetensors"]
    )
    page.get_by_text("Where it comes from").click()
    page.get_by_label("About this version").fill("Twice the data")
    page.get_by_label("Training run").fill("run-7")
    page.get_by_label("Datasets").fill("shop, shop-2")
    page.get_by_text("Evals", exact=True).click()
    page.get_by_role("button", name="Add an eval").click()
    page.get_by_role("button", name="Register", exact=True).click()
    page.get_by_text("Say what to ask, or remove this eval.").wait_for()
    page.get_by_label("Prompt", exact=True).fill(PROMPT)
    page.get_by_label("Its answer matches").fill("(")
    page.get_by_role("button", name="Register", exact=True).click()
    page.locator(".eval .problem").wait_for()
    page.get_by_label("Its answer matches").fill("")
    page.get_by_label("Its answer contains").fill("SELECT name, price FROM products")
    page.get_by_role("button", name="Register", exact=True).click()
    page.get_by_text("judged-here@1 is ready").wait_for()
    with shop.http() as http:
        version = http.get("/api/v1/adapters/judged-here/versions/1").json()
    assert version["description"] == "Twice the data"
    assert (version["lineage"]["training_run"], version["lineage"]["datasets"]) == ("run-7", ["shop", "shop-2"])
    assert [result["passed"] for result in version["evals"]] == [True]
    window.errors = [error for error in window.errors if "400" not in error]


def test_a_tenant_gets_a_key_with_a_quota(window: Window, shop: Server) -> None:
    page = window.open("/tenants")
    page.get_by_role("button", name="New tenant").first.click()
    page.get_by_label("Name", exact=True).fill("acme")
    page.get_by_label("Requests per minute").fill("60")
    page.get_by_label("Tokens a day").fill("8")
    page.get_by_role("button", name="Create tenant").click()
    page.get_by_role("cell", name="acme").wait_for()
    page.get_by_role("button", name="New key").click()
    page.get_by_label("Name", exact=True).fill("ci")
    page.get_by_label("Belongs to").select_option("acme")
    page.get_by_label("Only some of what its role may").check()
    page.get_by_role("button", name="Create key").click()
    page.get_by_text("Shown only now").wait_for()
    key = page.get_by_role("group", name="Key", exact=True).inner_text()
    page.get_by_role("button", name="Done").click()
    with shop.http() as http:
        answer = http.post(
            "/v1/completions",
            json={"model": "sql", "prompt": "hi", "max_tokens": 1},
            headers={"Authorization": f"Bearer {key}"},
        )
        assert (answer.status_code, answer.headers["x-ratelimit-limit-requests"]) == (200, "60")
        used = answer.json()["usage"]["total_tokens"]
    page = window.open("/tenants/acme")
    page.get_by_role("img", name=f"Used of tokens a day: {round(100 * used / 8)}%").wait_for()
    page.get_by_text(f"{used} of 8").wait_for()
    page.get_by_text(re.compile("^ ?[01] of 60")).wait_for()
    page = window.open("/tenants")
    page.get_by_role("row", name=re.compile("^acme ")).get_by_role("img", name=re.compile("Used of tokens")).wait_for()
    page.get_by_role("navigation", name="Parts of this page").get_by_role("link", name="Keys").click()
    row = page.get_by_role("row", name=re.compile("^ci "))
    row.get_by_role("button", name="Revoke…").click()
    page.get_by_role("button", name="Revoke", exact=True).is_disabled()
    page.get_by_label("Type ci to confirm").fill("ci")
    page.get_by_role("button", name="Revoke", exact=True).click()
    row.get_by_text("revoked").wait_for()


def test_an_adapter_is_archived_by_its_name(window: Window, adapter_folder: Path) -> None:
    register(window, "short-lived", adapter_folder)
    page = window.open("/adapters/short-lived")
    page.get_by_role("button", name="Archive…").first.click()
    confirm = page.get_by_role("button", name="Archive", exact=True)
    page.get_by_label("Type short-lived to confirm").fill("short")
    assert confirm.is_disabled()
    page.get_by_label("Type short-lived to confirm").fill("short-lived")
    confirm.click()
    window.toast("short-lived is archived")
    page.wait_for_url("**/ui/adapters")
    page.get_by_role("link", name="sql", exact=True).wait_for()
    assert not page.get_by_role("link", name="short-lived").count()
