"""Every page, in both themes and at a phone's width: nothing in the console, nothing serious for axe."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect
from tests.e2e.browser.window import Window
from tests.e2e.conftest import Server

pytestmark = [pytest.mark.browser, pytest.mark.slow]
AXE = (Path(__file__).parent / "vendor/axe.min.js").read_text(encoding="utf-8")
PAGES = {
    "/": "Overview",
    "/adapters": "Adapters",
    "/adapters/sql": "sql",
    "/adapters/sql?tab=aliases": "sql",
    "/adapters/sql?tab=activity": "sql",
    "/adapters/sql?tab=evals": "sql",
    "/adapters/sql?tab=card": "sql",
    "/adapters/sql?tab=use": "sql",
    "/register": "Register an adapter",
    "/playground?model=sql": "Playground",
    "/cache": "Prefix cache",
    "/cache?tab=misses": "Prefix cache",
    "/cache?tab=savings": "Prefix cache",
    "/contexts": "Contexts",
    "/slots": "Slots and memory",
    "/models": "Models",
    "/replicas": "Replicas",
    "/batches": "Batches",
    "/requests?axis=300&ttft=0.001-600": "Requests",
    "/tenants": "Tenants and keys",
    "/tenants/seen": "seen",
    "/tenants?tab=keys": "Tenants and keys",
    "/tenants?tab=usage": "Tenants and keys",
    "/jobs": "Jobs",
    "/jobs?state=cancelled": "Jobs",
    "/webhooks": "Webhooks",
    "/audit": "Audit",
    "/settings": "Settings and health",
    "/tour": "Tour",
    "/docs": "Documentation",
    "/docs/configuration": "Configuration",
    "/docs/developing/a-kernel": "How to add a kernel",
}


# How far below the first cell's text the label of the row's first button stands, in pixels.
LINES = """row => {
    const bottom = node => {
        const text = document.createRange();
        text.selectNodeContents(node);
        return text.getBoundingClientRect().bottom;
    };
    return Math.abs(bottom(row.querySelector("td > button")) - bottom(row.querySelector("td")));
}"""
# Choices whose last ones cannot be reached.
CUT_OFF = """() => [...document.querySelectorAll(".segmented")]
    .filter(choice => choice.scrollWidth > choice.clientWidth).length"""
# What a finger meets that is less than 40 pixels high, with its label; links that are names are as high as text. What
# the picture of the cache has is in its tree, too.
SMALL_TARGETS = """() => [...document.querySelectorAll("button, select, summary, input, nav a, .button, .crumb, .help")]
    .filter(one => !one.disabled && !["file", "range"].includes(one.type))
    .filter(one => one.checkVisibility({visibilityProperty: true}))
    .filter(one => !one.closest(".visually-hidden, .skip, thead, .vhead, .icicle"))
    .filter(one => {
        const after = getComputedStyle(one, "::after");
        const beyond = after.content === "none" ? 0 : -2 * parseFloat(after.top || 0);
        const heights = [one, one.closest("label")].map(part => part?.getBoundingClientRect().height ?? 0);
        return heights[0] > 0 && Math.max(...heights) + beyond < 39.5;
    })
    .map(one => one.outerHTML.slice(0, 120))"""
# Buttons that open dialogs.
OPENERS = re.compile(r"…$|^New |^Load a model$|^Code$")
# Tables without buttons that export them; the documentation's are text.
NOT_EXPORTED = """() => [...document.querySelectorAll("table:not(.prose table), .vtable")]
    .filter(table => !table.closest(".card, .rollout")?.querySelector(".export")).length"""
# Of a bar, the part that its phases take.
FILLED = """bar => [...bar.children].reduce((sum, phase) => sum + phase.getBoundingClientRect().width, 0)
    / bar.getBoundingClientRect().width"""


@pytest.fixture(scope="module", autouse=True)
def traffic(shop: Server) -> None:
    """Something to show."""
    with shop.http() as http:
        assert http.post("/api/v1/tenants", json={"name": "seen"}).status_code == 201
        cases = [{"prompt": "Say yes", "max_tokens": 2, "checks": [{"type": "contains", "text": "yes"}]}]
        webhook = {"url": "http://127.0.0.1:9/hook", "events": ["webhook.nothing"], "description": "No server there"}
        made = http.post("/api/v1/webhooks", json=webhook).json()
        assert http.post(f"/api/v1/webhooks/{made['id']}:test").json()["state"] == "failed"
        evals = "/api/v1/adapters/sql/evals/smoke"
        assert http.put(evals, json={"cases": cases}).status_code == 201
        runs = [http.post(f"{evals}/runs", json=target).json()["id"] for target in ({}, {"model": "pirate"})]
        for run in runs:
            while http.get(f"/api/v1/adapters/sql/eval-runs/{run}").json()["run"]["state"] != "completed":
                time.sleep(0.2)
        # Last, and so the first of the lists.
        for i in range(3):
            text = "Please list the names of all the products that cost more than forty, the dearest first. " * 2
            body = {"model": "pirate", "prompt": f"{text}{i}", "max_tokens": 8}
            assert http.post("/v1/completions", json=body).status_code == 200


def serious(window: Window) -> list[Any]:
    """What axe-core finds, as far as it keeps people out."""
    found = window.page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
    return [
        (one["id"], [node["html"][:200] for node in one["nodes"][:3]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def test_every_page_is_accessible_in_both_themes_and_fits_every_window(make_window: Any, shop: Server) -> None:
    window = make_window(shop, bypass_csp=True, reduced_motion="reduce")
    window.sign_in(shop.key)
    with shop.http() as http:
        (request, *_) = http.get("/api/v1/requests").json()["items"]
        (webhook, *_) = http.get("/api/v1/webhooks").json()["items"]
    named = {f"/requests/{request['id']}": "Request", f"/webhooks/{webhook['id']}": "Webhook"}
    found: dict[Any, Any] = {}
    for path, title in {**PAGES, **named}.items():
        page = window.open(path)
        page.get_by_role("heading", name=title, exact=True, level=1).wait_for()
        window.settled()
        if tables := page.evaluate(NOT_EXPORTED):
            found[path, "tables that cannot be exported"] = tables
        assert page.title() == f"{title} · Multiflora"
        page.evaluate(AXE)
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            if problems := serious(window):
                found[path, theme] = problems
        for width in (360, 2560):
            page.set_viewport_size({"width": width, "height": 800})
            if (reach := page.evaluate("document.documentElement.scrollWidth")) > width:
                found[path, width] = reach
            if choices := page.evaluate(CUT_OFF):
                found[path, width, "choices that are cut off"] = choices
            if width == 360 and (small := page.evaluate(SMALL_TARGETS)):
                found[path, width, "less than 40 pixels high"] = small[:4]
        page.set_viewport_size({"width": 1440, "height": 900})
    assert not found, json.dumps([*found.items()], indent=1)


def test_every_dialog_is_accessible_in_both_themes_and_fits_a_phone(make_window: Any, shop: Server) -> None:
    with shop.http() as http:
        key = {"name": "k" * 64, "role": "tenant", "tenant": "seen"}
        assert http.post("/api/v1/keys", json=key).status_code == 201
    window = make_window(shop, bypass_csp=True, reduced_motion="reduce")
    window.sign_in(shop.key)
    found: dict[Any, Any] = {}
    opened = set()
    for path in [*(path for path in PAGES if not path.startswith(("/docs", "/tour", "/register"))), "/playground"]:
        page = window.open(path)
        window.settled()
        labels = [label.strip() for label in page.locator("main button:visible:enabled").all_inner_texts()]
        for name in dict.fromkeys(label for label in labels if OPENERS.search(label)):
            page.get_by_role("main").get_by_role("button", name=name, exact=True).first.click()
            # Some lead to a form within the page.
            if page.locator("dialog[open]").count() == 0 or (path.partition("?")[0], name) in opened:
                window.open(path)
                window.settled()
                continue
            opened.add((path.partition("?")[0], name))
            page.evaluate(AXE)
            for theme in ("light", "dark"):
                page.emulate_media(color_scheme=theme)
                if problems := serious(window):
                    found[path, name, theme] = problems
            page.set_viewport_size({"width": 360, "height": 800})
            if page.locator("dialog").evaluate("one => one.scrollWidth > one.clientWidth"):
                found[path, name] = "wider than a phone"
            if small := page.evaluate(SMALL_TARGETS):
                found[path, name, "less than 40 pixels high"] = small[:4]
            page.set_viewport_size({"width": 1440, "height": 900})
            page.keyboard.press("Escape")
            page.locator("dialog[open]").wait_for(state="detached")
    assert len(opened) > 12, opened
    assert not found, json.dumps([*found.items()], indent=1)


def test_the_form_of_an_eval_is_accessible_and_fits_a_phone(make_window: Any, shop: Server) -> None:
    window = make_window(shop, bypass_csp=True, reduced_motion="reduce")
    window.sign_in(shop.key)
    page = window.open("/adapters/sql?tab=evals")
    page.get_by_role("region", name="Eval", exact=True).get_by_role("button", name="Edit…").click()
    page.locator("summary", has_text="Say yes").click()
    page.get_by_role("button", name="Add a check").click()
    page.get_by_label("The answer").last.select_option("number")
    page.evaluate(AXE)
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        assert serious(window) == []
    page.set_viewport_size({"width": 360, "height": 800})
    assert page.evaluate("document.querySelector('dialog').scrollWidth <= document.querySelector('dialog').clientWidth")
    assert page.evaluate(CUT_OFF) == 0


def test_a_request_shows_which_of_several_engines_had_it_and_why(window: Window, shop: Server) -> None:
    with shop.http() as http:
        one = http.get("/api/v1/requests?model=pirate").json()["items"][0]
    assert one["placement"]["reason"] == "only", "the shop has one engine"
    placement = {"replica": "1", "reason": "cached", "cached_tokens": 512, "seconds": 0.031, "runner_up_seconds": 0.142}
    window.page.route(
        "**/api/v1/requests/*",
        lambda route: route.fulfill(json=one | {"cached_tokens": 496, "placement": placement | {"moves": 1}}),
    )
    engine = window.open(f"/requests/{one['id']}").get_by_role("region", name="Which engine")
    for text in ("it has more of the prompt", "once, by an engine that was gone", "512 tokens; 496 were", "142 ms"):
        engine.get_by_text(text, exact=True).wait_for()


def test_the_overview_shows_what_happened_when(window: Window, shop: Server) -> None:
    with shop.http() as http:
        assert http.put("/api/v1/adapters/sql/aliases/marked", json={"version": 1}).status_code in (200, 201)
        refused = {"model": "no-such-model", "prompt": "a"}
        assert http.post("/v1/completions", json=refused).status_code == 404
        assert http.post("/v1/completions", json={"model": "sql", "prompt": "SELECT"}).status_code == 200
    page = window.open("/")
    page.get_by_role("region", name="Refused").get_by_text("model_not_found").wait_for()
    page.get_by_role("region", name="Refused").get_by_text("1×", exact=True).wait_for()
    page.get_by_role("region", name="Busiest models").get_by_role("link", name="sql").wait_for()
    heat = page.get_by_role("region", name="Models by time")
    for measure, words in (("Tokens", "tokens"), ("Requests", "requests"), ("p95", "95 of 100 within")):
        heat.get_by_role("button", name=measure, exact=True).click()
        heat.locator(f"i[title^='sql, '][title*='{words}'][style*='opacity']").first.wait_for()
    heat.get_by_role("button", name="Errors", exact=True).click()
    page.wait_for_url("**/ui/?heat=errors")
    page.get_by_role("region", name="Memory").get_by_role("list").get_by_text("weights").wait_for()
    chart = page.get_by_role("region", name="Generated tokens per second, by model")
    other = page.get_by_role("region", name="Memory").locator(".legend .at")
    assert other.count() == 0
    # The mark may stand anywhere: the pointer goes along the whole axis, and every chart says what is under it.
    chart.scroll_into_view_if_needed()
    plot = chart.locator(".u-over").bounding_box()
    assert plot is not None
    said = set()
    for step in range(1, 100):
        page.mouse.move(plot["x"] + plot["width"] * step / 100, plot["y"] + 20)
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        said.update(other.all_inner_texts())
    assert any("alias moved (sql@marked)" in text for text in said), said


def downloaded(page: Page, table: str, kind: str) -> str:
    with page.expect_download() as download:
        page.get_by_role("group", name=f"Export {table}").get_by_role("button", name=kind).click()
    assert download.value.suggested_filename == f"multiflora-{table}.{kind.lower()}"
    return download.value.path().read_text(encoding="utf-8")


def test_what_a_table_shows_is_what_it_exports_and_its_address_says(window: Window) -> None:
    page = window.open("/adapters?q=rat")
    page.get_by_role("link", name="pirate", exact=True).wait_for()
    assert page.get_by_role("link", name="sql", exact=True).count() == 0
    (row,) = csv.DictReader(io.StringIO(downloaded(page, "adapters", "CSV")))
    assert (row["name"], row["version"], row["rank"]) == ("pirate", "1", "32")
    (row,) = json.loads(downloaded(page, "adapters", "JSON"))
    assert row["aliases"] == {"default": {"version": 1}}
    page = window.open("/adapters")
    for address in ("?sort=rank", "?sort=-rank"):
        page.get_by_role("columnheader", name="Rank").get_by_role("button").click()
        page.wait_for_url(f"**/ui/adapters{address}")
    page.reload()
    page.locator("[role=columnheader][aria-sort=descending]", has_text="Rank").wait_for()
    ranks = [int(row["rank"]) for row in csv.DictReader(io.StringIO(downloaded(page, "adapters", "CSV")))]
    assert ranks == sorted(ranks, reverse=True)
    assert len(set(ranks)) > 1
    page = window.open("/settings?q=log_bodies&sort=name")
    page.get_by_role("row", name="log_bodies").wait_for()
    assert {row["name"] for row in csv.DictReader(io.StringIO(downloaded(page, "settings", "CSV")))} == {"log_bodies"}


def test_columns_are_chosen_at_the_table_and_kept_in_the_address(make_window: Any, shop: Server) -> None:
    window = make_window(shop)
    window.sign_in(shop.key)
    page = window.open("/adapters")
    page.get_by_role("link", name="sql", exact=True).wait_for()
    every = csv.DictReader(io.StringIO(downloaded(page, "adapters", "CSV"))).fieldnames
    assert every is not None
    unseen = {"tags", "bytes", "speed"}
    assert {"aliases", *unseen} <= set(every)
    page.get_by_role("button", name="Columns").focus()
    for key in ("Enter", "Tab", "Tab", "Tab", "Tab", "Space", "Escape"):
        page.keyboard.press(key)
    assert page.get_by_role("button", name="Columns").evaluate("button => button === document.activeElement")
    page.get_by_role("columnheader", name="Aliases").wait_for(state="detached")
    assert csv.DictReader(io.StringIO(downloaded(page, "adapters", "CSV"))).fieldnames == [
        key for key in every if key not in {"aliases", *unseen}
    ]
    page.get_by_role("checkbox", name="Select sql").wait_for()
    address = page.url
    page = window.open("/adapters")
    page.wait_for_url(address)
    assert page.get_by_role("columnheader", name="Aliases").count() == 0
    page.get_by_role("button", name="Columns").click()
    page.get_by_role("button", name="Usual columns").click()
    page.get_by_role("columnheader", name="Aliases").wait_for()
    assert page.url.endswith("/ui/adapters")

    other = make_window(shop, has_touch=True)
    other.sign_in(shop.key)
    other.page.set_viewport_size({"width": 390, "height": 800})
    page = other.open(address.partition("/ui")[2])
    page.get_by_role("link", name="sql", exact=True).wait_for()
    assert page.get_by_role("columnheader", name="Aliases").count() == 0
    page = other.open("/settings?q=log_bodies&columns.settings=name+value+nothing")
    card = page.get_by_role("row", name="log_bodies")
    card.wait_for()
    assert card.locator("td").evaluate_all("cells => cells.map(cell => cell.dataset.label)") == ["Setting", "Value"]
    page.get_by_role("button", name="Columns").tap()
    menu = page.get_by_role("group", name="Columns of Settings")
    assert all(box["height"] >= 40 for box in (label.bounding_box() for label in menu.locator("label").all()) if box)
    menu.get_by_text("Setting", exact=True).tap()
    card.wait_for(state="detached")
    assert menu.get_by_label("Value").is_disabled(), "the last column stays"
    menu.get_by_text("From", exact=True).tap()
    assert page.locator("td").first.get_attribute("data-label") == "Value"


def test_the_documentation_is_read_and_searched_in_the_ui(window: Window) -> None:
    page = window.open("/cache?tab=misses")
    card = page.get_by_role("region", name="Drift")
    card.get_by_role("link", name="Documentation of Drift").click()
    page.wait_for_url("**/ui/docs/prefix-cache#drift-prompts-that-miss-at-one-place")
    heading = page.get_by_role("heading", name="Drift: prompts that miss at one place")
    heading.wait_for()
    window.until("scrollY > 0")
    assert page.title() == "The prefix cache: what stays · Multiflora"
    # A link to another page, one to a heading of it, and one to a file that is not served.
    page = window.open("/docs")
    assert page.get_by_role("link", name="examples/rag.py").count() == 0
    page.get_by_text("examples/rag.py").wait_for()
    page.locator(".prose").get_by_role("link", name="rollouts.md").click()
    page.wait_for_url("**/ui/docs/rollouts")
    page.get_by_role("heading", name="Rollouts", level=1).wait_for()
    assert page.evaluate("scrollY") == 0
    page.get_by_role("link", name="Shadows", exact=True).click()
    page.wait_for_url("**/ui/docs/rollouts#shadows")
    window.until("scrollY > 0")
    page.get_by_role("button", name="Copy").first.wait_for()
    sought(page, "named contexts", "Documentation", "Named contexts")
    page.wait_for_url("**/ui/docs/prefix-cache#named-contexts")
    page.get_by_role("heading", name="Named contexts").wait_for()
    page = window.open("/docs/no-such")
    page.get_by_text("There is no such page").wait_for()


MARKDOWN = """# Title

## A <b>heading</b>

<img src=x onerror="window.hurt = 1"> [one](javascript:window.hurt=1) [two](../SECURITY.md) [three](cache.md#a)

| a | b |
| --- | --- |
| `1` | 2 |
"""


def test_text_of_the_documentation_stays_text(window: Window) -> None:
    index = [{"path": "README.md", "title": "Title", "headings": [[2, "A heading", "a-heading"]]}]
    window.page.route("**/docs/index.json", lambda route: route.fulfill(json=index))
    window.page.route("**/docs/README.md", lambda route: route.fulfill(body=MARKDOWN))
    prose = window.open("/docs").locator(".prose")
    prose.get_by_text("<img src=x").wait_for()
    assert prose.locator("a").evaluate_all("links => links.map(link => link.getAttribute('href'))") == ["#a-heading"]
    assert prose.locator("img, script, b").count() == 0
    assert prose.get_by_role("cell").all_inner_texts() == ["1", "2"]


# What clients chose of a table's text, in a file that spreadsheets open; and rows whose value is not known, in order.
FILE = """async () => {
    const base = document.querySelector('meta[name="ui-base"]').content;
    const { csv, sorted } = await import(base + "lib/tables.js");
    const columns = [{ key: "model" }, { key: "at", time: true }, { key: "gain" }, { key: "buttons", control: true }];
    const rows = [{ model: '=HYPERLINK("x")', at: 0, gain: -1.5 }, { model: "a, b\\n", at: null, gain: null }];
    return [csv(columns, rows), sorted(rows, columns, { key: "gain", down: true }).map(row => row.gain)];
}"""


def test_exported_text_is_neither_a_formula_nor_another_column(window: Window) -> None:
    text, gains = window.open("/settings").evaluate(FILE)
    quoted = '"\'=HYPERLINK(""x"")"'
    assert text == f'model,at,gain\r\n{quoted},1970-01-01T00:00:00.000Z,-1.5\r\n"a, b\n",,\r\n'
    assert gains == [-1.5, None]


def sought(page: Page, text: str, group: str, option: str) -> None:
    """Ctrl-K, the text, down to the option, Enter: without the mouse."""
    page.keyboard.press("Control+k")
    field = page.get_by_role("dialog", name="Search").get_by_role("combobox")
    field.fill(text)
    wanted = page.get_by_role("group", name=group).get_by_role("option", name=option)
    wanted.wait_for()
    for _ in range(page.get_by_role("option").count()):
        if field.get_attribute("aria-activedescendant") == wanted.get_attribute("id"):
            break
        field.press("ArrowDown")
    assert wanted.get_attribute("aria-selected") == "true"
    field.press("Enter")
    field.wait_for(state="detached")


def test_everything_with_a_name_is_found_by_it(make_window: Any, shop: Server) -> None:
    window = make_window(shop, bypass_csp=True)
    window.sign_in(shop.key)
    with shop.http() as http:
        (request, *_) = http.get("/api/v1/requests").json()["items"]
        context = {"prompt": "Orders are sent within two days, in one box. " * 8, "adapters": ["extract"]}
        assert http.put("/api/v1/contexts/shipping", json=context).status_code in (200, 201)
    page = window.open("/audit")
    page.keyboard.press("Control+k")
    dialog = page.get_by_role("dialog", name="Search")
    dialog.get_by_role("option", name="Prefix cache").wait_for()
    page.evaluate(AXE)
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        assert serious(window) == []
    dialog.get_by_role("combobox").fill("no such thing anywhere")
    dialog.get_by_text("Nothing has this name.").wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    for text, group, option, address in (
        ("pirate", "Adapters", "pirate", "/adapters/pirate"),
        ("pirate@1", "Versions", "pirate@1", "/adapters/pirate?compare=1"),
        ("shop's tables", "Adapters", "sql", "/adapters/sql"),
        (request["id"], "Requests", request["id"], f"/requests/{request['id']}"),
        ("seen", "Tenants", "seen", "/tenants/seen"),
        ("shipping", "Contexts", "shipping", "/contexts?q=shipping"),
        ("log-bodies", "Settings", "log_bodies", "/settings?q=log_bodies"),
        ("slots", "Pages", "Slots and memory", "/slots"),
        ("jobs", "Pages", "Jobs", "/jobs"),
        ("webhooks", "Pages", "Webhooks", "/webhooks"),
    ):
        sought(page, text, group, option)
        page.wait_for_url(f"**/ui{address}")
    with shop.http() as http:
        assert http.delete("/api/v1/contexts/shipping").status_code == 204


def test_how_long_ago_tells_the_moment_and_its_zone(make_window: Any, shop: Server) -> None:
    window = make_window(shop, timezone_id="Asia/Shanghai")
    window.sign_in(shop.key)
    page = window.open("/audit")
    time = page.locator("time").first
    time.wait_for()
    assert re.search(r"\d:\d\d:\d\d.*GMT\+8", time.get_attribute("title") or "")
    assert (time.get_attribute("datetime") or "").endswith("Z")
    page.get_by_text(re.compile(r"^Version \S+ · 1 replica$")).wait_for()


def test_what_was_asked_is_seen_where_operators_look(window: Window) -> None:
    """The traffic above: in the requests, in its slot, in the cache, and why it missed."""
    page = window.open("/slots")
    row = page.get_by_role("row", name="pirate")
    row.get_by_role("button", name="Pin").wait_for()
    assert row.evaluate(LINES) < 1, "a button's label stands on the line of the row's text"
    rank_rows = page.get_by_role("list", name="Rank rows")
    bar = rank_rows.get_by_role("listitem", name=re.compile(r"^pirate@1: rows \d+ to \d+, "))
    assert bar.inner_text() == "pirate@1"
    ranks = page.get_by_label("If one more comes").first
    ranks.select_option(index=1)
    page.get_by_text("It finds room; nothing leaves.").wait_for()
    page = window.open("/requests?q=pirate")
    assert page.locator(".phases > span").first.evaluate(FILLED) > 0.99, "a request of less than a second, too"
    page.get_by_role("table", name="Requests").get_by_role("link").first.click()
    page.get_by_role("list", name="Stages").get_by_text("decode").wait_for()
    page.get_by_role("heading", name="Prefix cache").wait_for()
    page.get_by_role("group", name="Body").get_by_text("the products that cost more than forty").wait_for()
    page.get_by_role("heading", name="Answer").wait_for()
    page = window.open("/cache?tab=misses")
    reason = page.get_by_role("cell", name="first time").first
    reason.wait_for()
    page.set_viewport_size({"width": 360, "height": 740})
    assert reason.evaluate("cell => cell.getBoundingClientRect().height") < 120, "a sentence, not a column of words"
    page.set_viewport_size({"width": 1440, "height": 900})
    page = window.open("/cache")
    picture = page.get_by_role("group", name="Memory by prefix")
    picture.get_by_text("pirate@1 · admin").wait_for()
    picture.get_by_role("button", name="Please list the names").first.click()
    picture.get_by_text("pirate@1 · admin").wait_for(state="detached")
    page.get_by_role("button", name="Show all").click()
    fold = page.get_by_role("button", name="Prefixes that continue").first
    assert fold.get_attribute("aria-expanded") == "true", "the prompts above begin alike"
    row = page.get_by_role("row").filter(has_text="pirate").first
    row.get_by_role("button", name="Text").click()
    page.get_by_role("group", name="Text").get_by_text("the products that cost more than forty").wait_for()
    page.get_by_role("button", name="Close").click()
    row.get_by_role("button", name="Pin").click()
    window.toast("Pinned: it stays cached.")
    row.get_by_role("button", name="Unpin").click()
    name = row.locator("code").inner_text()
    row.get_by_role("button", name="Drop…").click()
    page.get_by_label(f"Type {name} to confirm").fill(name)
    page.get_by_role("button", name="Drop", exact=True).click()
    window.toast("Dropped, with everything that continues it.")
    page.locator("code", has_text=name).wait_for(state="detached")


# Of each stage's bar, where it begins and how wide it is, as shares of the axis.
STAGES = """list => [...list.querySelectorAll(".track")].map(track => {
    const [axis, bar] = [track, track.firstChild].map(one => one.getBoundingClientRect());
    return [(bar.left - axis.left) / axis.width, bar.width / axis.width];
})"""


def test_a_requests_stages_stand_where_they_were_and_it_is_replayed(window: Window, shop: Server) -> None:
    earlier = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    messages = [{"role": "system", "content": "Be brief."}, *earlier, {"role": "user", "content": "Name a product."}]
    answer = {"name": "product", "schema": {"type": "string"}, "strict": False}
    body = {"model": "pirate", "messages": messages, "max_tokens": 5, "temperature": 0, "top_p": 1, "user": "ann"} | {
        "response_format": {"type": "json_schema", "json_schema": answer}
    }
    with shop.http() as http:
        assert http.post("/v1/chat/completions", json=body).status_code == 200
        (made, *_) = http.get("/api/v1/requests?model=pirate").json()["items"]
        page = window.open(f"/requests/{made['id']}")
        bars = page.get_by_role("list", name="Stages").evaluate(STAGES)
        start, total = made["at"], made["timeline"][-1]["end"] - made["at"]
        for stage, bar in zip(made["timeline"], bars, strict=True):
            assert bar[0] == pytest.approx((stage["start"] - start) / total, abs=0.01)
            assert bar[1] == pytest.approx((stage["end"] - stage["start"]) / total, abs=0.01)
        page.get_by_role("link", name="Replay in the playground").click()
        page.get_by_text("again with its user").wait_for()
        assert page.get_by_label("New message").input_value() == "Name a product."
        assert json.loads(page.get_by_label("JSON schema").input_value()) == answer["schema"]
        page.get_by_label("New message").fill("Name a price.")
        page.get_by_role("button", name="Run").click()
        page.get_by_role("region", name="Answer of pirate@1").get_by_text("length").wait_for()
        (again, *_) = http.get("/api/v1/requests?model=pirate@1").json()["items"]
        sent = http.get(f"/api/v1/requests/{again['id']}").json()["body"]["request"]
    messages[-1]["content"] = "Name a price."
    kept = {name: value for name, value in sent.items() if value is not None and not name.startswith("stream")}
    shape = kept["response_format"]["json_schema"]
    assert shape == shape | answer, "the schema, its name and that it is not strict"
    assert kept == body | {"model": "pirate@1", "messages": messages, "response_format": kept["response_format"]}


def test_a_request_explains_what_the_cache_had_of_it(window: Window, shop: Server) -> None:
    rules = "Answer in one short sentence, and never say more than you are asked for. " * 2
    for day in (28, 29):
        messages = [
            {"role": "system", "content": f"Today is 2026-11-{day}. {rules}"},
            {"role": "user", "content": "Hi"},
        ]
        with shop.http() as http:
            made = http.post("/v1/chat/completions", json={"model": "triage", "messages": messages, "max_tokens": 1})
    page = window.open(f"/requests/{made.json()['id']}")
    card = page.get_by_role("region", name="Prefix cache")
    card.get_by_text("in message 1 (system)").wait_for()
    assert [mark.inner_text()[:2] for mark in card.locator("mark").all()] == ["28", "29"]
    card.get_by_text("A time stands there.").wait_for()


# Two texts word by word; what the form of a rollout takes for steps.
WORDS = """async (pairs) => {
    const base = document.querySelector('meta[name="ui-base"]').content;
    const { wordDiff } = await import(base + "lib/words.js");
    return pairs.map(pair => wordDiff(...pair));
}"""
STEPS = """async (texts) => {
    const base = document.querySelector('meta[name="ui-base"]').content;
    const { stepsOf } = await import(base + "pages/adapter/rollout-start.js");
    return texts.map(stepsOf);
}"""


def test_two_texts_are_compared_to_the_last_blank(window: Window) -> None:
    pairs = [
        ["one two", "one three"],
        ["one \n", "one"],
        [" ", ""],
        ["", ""],
        ["a  b ", "a  b "],
        ["今天好", "今天很好"],
    ]
    assert window.open("/settings").evaluate(WORDS, pairs) == [
        [["same", "one"], ["left", " two"], ["right", " three"]],
        [["same", "one"], ["left", " \n"]],
        [["left", " "]],
        [],
        [["same", "a  b "]],
        [["same", "今天"], ["right", "很"], ["same", "好"]],
    ]


def test_steps_of_a_rollout_are_whole_percentages_that_grow(window: Window) -> None:
    taken = {"1, 10,50,": [1, 10, 50], " ": [], "1, ten": None, "10, 10": None, "1.5": None, "100": None, "0": None}
    assert window.open("/settings").evaluate(STEPS, list(taken)) == list(taken.values())


# What is sent when an earlier request is replayed: as it was, and with another schema in the form.
REPLAYED = """async ([path, request]) => {
    const base = document.querySelector('meta[name="ui-base"]').content;
    const { taskOf } = await import(base + "pages/playground/replay.js");
    const { requestOf } = await import(base + "pages/playground/request.js");
    const task = taskOf({ path, body: { request } });
    const changed = { ...task, settings: { ...task.settings, schema: '{"type": "number"}' } };
    return [task, changed].map(one => requestOf(request.model, "", one).body);
}"""


def test_a_replay_keeps_the_schema_and_how_it_is_called(window: Window) -> None:
    page = window.open("/playground?model=sql")
    named = {"name": "price", "description": "in euros", "schema": {"type": "integer"}, "strict": False}
    shaped = {"model": "sql", "top_p": 1, "response_format": {"type": "json_schema", "json_schema": named}}
    completion = shaped | {"prompt": "The price:"}
    assert page.evaluate(REPLAYED, ["/v1/completions", completion]) == [completion, completion]
    chat = shaped | {"messages": [{"role": "user", "content": "The price?"}]}
    other = {"type": "json_schema", "json_schema": named | {"schema": {"type": "number"}}}
    assert page.evaluate(REPLAYED, ["/v1/chat/completions", chat]) == [chat, chat | {"response_format": other}]


def test_the_overview_tells_why_a_rollout_was_rolled_back_and_which_requests_cost_most(
    window: Window, shop: Server
) -> None:
    with shop.http() as http:
        asked = {"model": "sql", "prompt": "Which products cost most?", "max_tokens": 4}
        assert http.post("/v1/completions", json=asked).status_code == 200
    now = datetime.now(UTC)
    names = {
        "adapter": "sql",
        "alias": "default",
        "stable": 1,
        "candidate": 2,
        "percent": 5,
        "candidate_observed": None,
    }
    over = {"id": 1, **names, "state": "rolled_back", "reason": "12% of 25 requests failed"}
    rollouts = [
        {**over, "id": 3, "alias": "canary", "state": "running", "reason": "", "ended_at": None},
        {**over, "id": 5, "ended_at": (now - timedelta(hours=8)).isoformat()},
        {**over, "id": 4, "alias": "next", "state": "promoted", "reason": "by hand", "ended_at": now.isoformat()},
        {**over, "id": 6, "alias": "next", "reason": "settled since", "ended_at": now.isoformat()},
        {**over, "id": 2, "alias": "old", "reason": "long ago", "ended_at": (now - timedelta(days=2)).isoformat()},
    ]
    page = window.page
    page.route("**/api/v1/rollouts?*", lambda route: route.fulfill(json={"items": rollouts, "next_page_token": None}))
    window.open("/")
    items = page.get_by_role("region", name="Rollouts", exact=True).get_by_role("listitem")
    expect(items).to_have_count(1)
    expect(items).to_contain_text("v1 to v2, 5%")
    told = page.get_by_role("status").filter(has_text="was rolled back")
    expect(told).to_have_count(1)
    expect(told).to_contain_text("Version 2 of sql@default was rolled back to version 1")
    expect(told).to_contain_text("Because 12% of 25 requests failed.")
    costliest = page.get_by_role("region", name="Costliest requests").get_by_role("listitem")
    costliest.get_by_role("link").first.click()
    page.wait_for_url(re.compile(r"/ui/requests/[0-9a-f]{32}$"))


def test_the_audit_is_filtered_and_leads_to_what_was_changed(window: Window) -> None:
    """What was deleted with all that was its own has no page any more."""
    done = {
        ("adapter.updated", "sql"): "/adapters/sql",
        ("alias.moved", "sql@stable"): "/adapters/sql?tab=aliases",
        ("version.created", "sql@2"): "/adapters/sql?compare=2",
        ("context.created", "admin/shipping"): "/contexts?q=shipping",
        ("tenant.updated", "seen"): "/tenants/seen",
        ("webhook.created", "wh_1"): "/webhooks/wh_1",
        ("key.revoked", "key_1"): "/tenants?tab=keys",
        ("adapter.deleted", "gone"): None,
        ("session.closed", "oidc:ada"): None,
    }
    at = datetime.now(UTC).isoformat()
    rows = [
        {"id": 99 - i, "at": at, "actor": f"admin/{target}", "action": action, "target": target, "detail": {}}
        for i, (action, target) in enumerate(done)
    ]
    page = window.page
    page.route("**/api/v1/audit?*", lambda route: route.fulfill(json={"items": rows, "next_page_token": None}))
    window.open("/audit")
    table = page.get_by_role("table", name="Audit")
    for (_, target), address in done.items():
        link = table.get_by_role("link", name=target, exact=True)
        if address is None:
            expect(link).to_have_count(0)
        else:
            expect(link).to_have_attribute("href", f"/ui{address}")
    page.get_by_role("combobox", name="What", exact=True).select_option(label="tenant changed")
    page.wait_for_url("**/ui/audit?what=tenant.updated")
    expect(table.get_by_role("link")).to_have_text(["seen"])
    page.get_by_role("combobox", name="Who", exact=True).select_option("admin/wh_1")
    page.get_by_text("Nothing matches").wait_for()


def test_settings_that_were_set_stand_first(window: Window) -> None:
    page = window.open("/settings")
    sources = page.get_by_role("group", name="Settings", exact=True).get_by_role("row").locator("td:nth-child(3)")
    sources.first.wait_for()
    told = sources.all_inner_texts()
    defaults = told.index("default")
    assert 0 < defaults < len(told)
    assert set(told[defaults:]) == {"default"}


def test_what_tenants_spent_stands_beside_what_they_used(window: Window, shop: Server) -> None:
    """From the list of tenants, and of one tenant by its adapters; the days have two axes."""
    counts = (
        "requests",
        "prompt_tokens",
        "cached_tokens",
        "cache_write_tokens",
        "uncached_tokens",
        "completion_tokens",
    )
    used = {**dict.fromkeys(counts, 30), "device_ms": 1500, "day": datetime.now(UTC).date().isoformat()}
    money = {"currency": "EUR", "device": 3.0, "cached": 0.5, "stored": 0.25, "saved": 1.0, "computed_again": 0}
    rows = [
        {**used, "tenant": "globex", "adapter": None, "device_ms": 1},
        {**used, "tenant": "spender", "adapter": "sql", "money": money},
    ]
    with shop.http() as http:
        assert http.post("/api/v1/tenants", json={"name": "spender"}).status_code == 201
    page = window.page
    page.route("**/api/v1/usage?*", lambda route: route.fulfill(json={"items": rows, "next_page_token": None}))
    window.open("/tenants")
    page.get_by_role("link", name="Usage", exact=True).click()
    spent = page.get_by_role("group", name="By tenant, since the beginning", exact=True).get_by_role("row")
    expect(spent.nth(1)).to_contain_text(re.compile("spender.*EUR.3.75"))
    expect(spent.nth(2)).to_contain_text("globex")
    expect(page.locator(".days-up")).to_have_text("100500")
    expect(page.locator(".days-along span").last).to_have_text(used["day"][5:])
    expect(page.get_by_label("Sums")).to_contain_text(re.compile("Cost\\s*EUR.3.75"))
    window.open("/tenants/spender")
    expect(page.get_by_role("group", name="By adapter, since the beginning", exact=True)).to_contain_text(
        re.compile("sql.*EUR.3.75")
    )


def test_each_table_of_savings_is_sorted_by_its_own_heads(window: Window) -> None:
    money = {"currency": "EUR", "device": 3.0, "cached": 0.5, "saved": 2.0, "computed_again": 0.1}
    spared = {"tokens": 9, "device_seconds": 1.0, "tokens_again": 0, "seconds_again": 0.0}
    saved = {"adapter": "sql", **spared, "money": money}
    usage = [{"tenant": "acme", "money": money}, {"tenant": "unpriced", "money": None}]
    page = window.page
    page.route("**/api/v1/cache", lambda route: route.fulfill(json=route.fetch().json() | {"savings": [saved]}))
    page.route("**/api/v1/usage?*", lambda route: route.fulfill(json={"items": usage, "next_page_token": None}))
    window.open("/cache?tab=savings")
    tables = [page.get_by_role("group", name=name, exact=True) for name in ("Saved by the cache", "Savings by tenant")]
    tables[1].get_by_role("row", name="unpriced").wait_for()
    tables[1].get_by_role("button", name="Device time").click()
    page.wait_for_url("**/ui/cache?tab=savings&tenants=device")
    orders = [[head.get_attribute("aria-sort") for head in table.get_by_role("columnheader").all()] for table in tables]
    assert [[order for order in of if order] for of in orders] == [["descending"], ["ascending"]]
    for address, order in (("&sort=tokens", "ascending"), ("", "descending")):
        tables[0].get_by_role("button", name="Tokens").click()
        page.wait_for_url(f"**/ui/cache?tab=savings&tenants=device{address}")
        tables[0].locator(f"[role=columnheader][aria-sort={order}]", has_text="Tokens").wait_for()


def test_requests_are_filtered_by_what_they_were_and_may_stand_still(window: Window, shop: Server) -> None:
    with shop.http() as http:
        refused = {"model": "no-such-model", "prompt": "a"}
        assert http.post("/v1/completions", json=refused).status_code == 404
    page = window.page
    page.clock.install()
    window.open("/requests")
    filters = page.get_by_role("group", name="Filters")
    filters.get_by_label("Code").select_option("model_not_found")
    page.wait_for_url("**/ui/requests?code=model_not_found")
    rows = list(csv.DictReader(io.StringIO(downloaded(page, "requests", "CSV"))))
    assert {(row["status"], row["key_id"]) for row in rows} == {("model_not_found", "api-key-1")}
    filters.get_by_role("button", name="Clear").click()
    filters.get_by_label("Version").select_option("pirate@1")
    filters.get_by_label("Missed because").select_option("first time")
    filters.get_by_label("Tenant").select_option("administrators")
    filters.get_by_label("Key").select_option("api-key-1")
    filters.get_by_label("Replica").select_option("0")
    filters.get_by_label("Time", exact=True).select_option("last hour")
    heads = page.get_by_role("columnheader", name="Where the time went")
    assert (heads.count(), heads.get_by_role("button").count()) == (1, 0), "a picture of several numbers has no order"
    rows = list(csv.DictReader(io.StringIO(downloaded(page, "requests", "CSV"))))
    assert all(float(row["queue_seconds"]) <= float(row["total_seconds"]) for row in rows)
    assert "phases" not in rows[0]
    columns = ("model", "version", "replica", "key_id", "miss_reason")
    assert {tuple(row[column] for column in columns)[1:] for row in rows} == {("1", "0", "api-key-1", "first_seen")}
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_role("button", name="Pause").click()
    page.get_by_text("Paused: what comes is not shown").wait_for()
    asked.clear()
    page.clock.run_for(20_000)
    assert not [url for url in asked if "/api/v1/requests" in url]
    page.get_by_role("button", name="Go on").click()
    with page.expect_request("**/api/v1/requests?*"):
        page.clock.run_for(5_000)


# Bins of [seconds, whether it failed]; borders beside each other; places there and back; what addresses say.
HISTOGRAM = """async (times) => {
    const base = document.querySelector('meta[name="ui-base"]').content;
    const lib = await import(base + "lib/histogram.js");
    const { bins, ...sums } = lib.histogramOf(times.map(([value, failed]) => ({ value, failed })));
    const back = bins.map(bin => lib.binAt(lib.placeOf(bin.from * 1.1, bins), bins).from);
    return {
        ...sums, back, ticks: bins.length ? lib.ticksOf(bins) : [],
        borders: [...bins.map(bin => bin.from), bins.at(-1)?.to],
        filled: bins.map(Object.values).filter(([, , succeeded, failed]) => succeeded + failed),
    };
}"""
RANGES = """async (texts) => {
    const base = document.querySelector('meta[name="ui-base"]').content;
    const { rangeOf, rangeText, rangeWords } = await import(base + "lib/histogram.js");
    return texts.map(rangeOf).map(range => range && [rangeText(range), rangeWords(range)]);
}"""


def test_times_fall_into_bins_with_round_borders(window: Window) -> None:
    page = window.open("/settings")
    times = [[0.001, False], [0.1, False], [0.1249, True], [0.125, False], [0.159, False], [0.5, False], [0.8, True]]
    found = page.evaluate(HISTOGRAM, [*times, [None, False], [0, True]])
    assert found["filled"] == [
        [0.001, 0.00125, 1, 0],
        [0.1, 0.125, 1, 1],
        [0.125, 0.16, 2, 0],
        [0.5, 0.63, 1, 0],
        [0.8, 1, 0, 1],
    ]
    decade = (1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.3, 8)
    borders = [round(one * 10.0**power, 9) for power in (-3, -2, -1) for one in decade]
    assert found["borders"] == [*borders, 1]
    assert found["back"] == borders, "a place leads back to its bin"
    assert (found["median"], found["p95"]) == (0.125, 0.8)
    assert (len(found["values"]), found["unmeasured"]) == (7, 2)
    assert [tick["value"] for tick in found["ticks"] if tick["isMajor"]] == [0.001, 0.01, 0.1, 1]


def test_one_time_has_a_decade_around_it_and_none_has_no_axis(window: Window) -> None:
    page = window.open("/settings")
    (lone, least, none) = (page.evaluate(HISTOGRAM, times) for times in ([[2.2, False]], [[1e-6, False]], [[0, True]]))
    assert lone["borders"] == [0.8, 1, 1.25, 1.6, 2, 2.5, 3.2, 4, 5, 6.3, 8]
    assert least["borders"][0] == 1e-6
    assert len(least["borders"]) == 11
    assert (none["filled"], none["median"], none["unmeasured"]) == ([], None, 1)


def test_a_range_of_seconds_is_two_numbers_in_order(window: Window) -> None:
    texts = ["0.1-0.5", "0.00000125-2", "2-200", "0.5-0.1", "1-1", "1-", "-1", "a-b", "1e3-2e3", ""]
    spoken = [["0.1-0.5", "100 ms to 500 ms"], ["0.00000125-2", "1.25 µs to 2 s"], ["2-200", "2 s to 200 s"]]
    assert window.open("/settings").evaluate(RANGES, texts) == [*spoken, *[None] * 7]


def test_a_range_drawn_over_the_histogram_filters_the_requests(window: Window, shop: Server) -> None:
    with shop.http() as http:
        shown = http.get("/api/v1/requests?model=pirate").json()["items"][0]
    times = {"quick": 0.11, "middling": 0.3, "slow": 2.2, "refused": None}
    items = [shown | {"id": name, "ttft": ttft, "total_seconds": 5} for name, ttft in times.items()]
    answer = {"items": items, "cursor": None, "is_complete": True, "next_page_token": None}
    page = window.page
    page.route("**/api/v1/requests?*", lambda route: route.fulfill(json=answer))
    window.open("/requests")

    def rows() -> list[str]:
        return [row["id"] for row in csv.DictReader(io.StringIO(downloaded(page, "requests", "CSV")))]

    brush = page.get_by_role("listbox")
    bins = [
        page.get_by_role("option", name=name).bounding_box()
        for name in ("100 ms to 125 ms", "250 ms to 320 ms: 1 request")
    ]
    (first, last) = [(box["x"] + box["width"] / 2, box["y"] + 20) for box in bins if box]
    page.mouse.move(*last)
    page.mouse.down()
    page.mouse.move(*first)
    page.mouse.up()
    page.wait_for_url("**/ui/requests?ttft=0.1-0.32")
    assert rows() == ["quick", "middling"]
    page.get_by_text("chosen: 100 ms to 320 ms, 2 of 3 requests").wait_for()
    page.reload()
    chip = page.get_by_role("button", name="Remove First token 100 ms to 320 ms")
    chip.wait_for()
    assert rows() == ["quick", "middling"]
    assert brush.get_by_role("option", selected=True).count() == 5
    brush.focus()
    brush.press("Shift+ArrowLeft")
    page.wait_for_url("**/ui/requests?ttft=0.1-0.25")
    assert rows() == ["quick"]
    page.mouse.click(*last)
    page.wait_for_url("**/ui/requests?ttft=0.25-0.32")
    page.get_by_text("As a table").click()
    page.get_by_role("row", name="250 ms 320 ms 1 0").wait_for()
    page.get_by_role("group", name="Which time").get_by_role("button", name="Total").click()
    page.wait_for_url("**/ui/requests?ttft=0.25-0.32&times=total")
    page.get_by_role("option", name="5 s to 6.3 s: 1 request").wait_for()
    page.get_by_role("group", name="Which time").get_by_role("button", name="First token").click()
    brush.press("Escape")
    page.wait_for_url("**/ui/requests?times=ttft")
    assert rows() == list(times)
    brush.press("Home")
    brush.press("Enter")
    page.wait_for_url("**/ui/requests?times=ttft&ttft=0.1-0.125")
    page.get_by_role("button", name="Remove First token").click()
    page.wait_for_url("**/ui/requests?times=ttft")


# Requests [id, at, end, status] on one axis: the last seconds of them.
LANES = """async ([requests, span]) => {
    const base = document.querySelector('meta[name="ui-base"]').content;
    const { lanesOf } = await import(base + "pages/requests/lanes.js");
    const timeline = (at, end) => (end === null ? [] : [{ stage: "queue", start: at, end }]);
    const of = requests.map(([id, at, end, status]) => ({ id, at, status, timeline: timeline(at, end) }));
    const { lanes, ...axis } = lanesOf(of, span);
    return { ...axis, lanes: lanes.map(one => one.id) };
}"""


def test_one_axis_has_those_that_run_and_the_newest_in_the_order_they_came(window: Window) -> None:
    page = window.open("/requests?axis=300")
    stages = page.get_by_role("list", name="Requests on one axis of time").get_by_role("img")
    assert re.match(r"\d+:\d+:\d+: queue .*, prefill .*, decode ", stages.last.get_attribute("aria-label") or "")
    page.get_by_role("group", name="On one axis").get_by_role("button", name="Off").click()
    page.wait_for_url("**/ui/requests")
    stages.first.wait_for(state="detached")
    refused = ["refused", 99, None, 429]
    few = [refused, ["last", 98, 100, 200], ["long", 70, 95, 200], ["gone", 60, 89, 200]]
    shown = {"lanes": ["long", "last"], "from": 90, "until": 100, "left": 0}
    assert page.evaluate(LANES, [few, 10]) == shown, "what began before is cut"
    assert page.evaluate(LANES, [few, 60]) == {"lanes": ["gone", "long", "last"], "from": 60, "until": 100, "left": 0}
    ended = [[f"ended-{i}", 100 - i, 100.5 - i, 200] for i in range(40)]
    many = page.evaluate(LANES, [[*ended, ["runs", 10, 101, None]], 60])
    assert many["lanes"] == ["runs", *[f"ended-{i}" for i in reversed(range(29))]]
    assert (many["from"], many["until"], many["left"]) == (41, 101, 11)
    assert page.evaluate(LANES, [[refused], 10])["lanes"] == []


# What the picture makes of two engines that have the same chain of eight runs; a run has what follows it once.
CELLS = """async () => {
    const base = document.querySelector('meta[name="ui-base"]').content;
    const { cellsOf } = await import(base + "pages/cache/cells.js");
    const of = { bytes: 8, digest: null, owner: null };
    const run = (replica, i) => ({ ...of, replica, hash: `h${i}`, parent: i ? `h${i - 1}` : null });
    const nodes = ["0", "1"].flatMap(replica => Array.from({ length: 8 }, (_, i) => run(replica, i)));
    const cells = cellsOf(nodes, null);
    const rows = Object.values(Object.groupBy(cells, cell => cell.depth));
    return {
        keys: new Set(cells.map(cell => cell.key)).size, cells: cells.length, bytes: cells[0].bytes,
        widest: Math.max(...rows.map(row => row.reduce((sum, cell) => sum + cell.width, 0))),
    };
}"""


def test_runs_that_several_engines_have_are_each_engines_own(window: Window) -> None:
    page = window.open("/cache")
    assert page.evaluate(CELLS) == {"keys": 17, "cells": 17, "bytes": 128, "widest": 1}


def test_of_several_base_models_pages_show_the_one_that_the_address_names(window: Window, shop: Server) -> None:
    page = window.open("/cache")
    page.get_by_label("Now").wait_for()
    assert page.get_by_label("Base model").count() == 0, "there is one"
    with shop.http() as http:
        (demo,) = http.get("/api/v1/models").json()["items"]
        cache, slots = (http.get(f"/api/v1/{path}").json() for path in ("cache", "slots"))
        fits = http.post("/api/v1/capacity", json={"ranks": [1]}).json() | {"blocks": 4321}
    states = (("tiny", "ready"), ("rests", "idle"))
    models = [demo, *(demo | {"name": name, "is_default": False, "state": state} for name, state in states)]
    page.route("**/api/v1/models", lambda route: route.fulfill(json={"items": models}))
    page.route("**/api/v1/cache?model=tiny", lambda route: route.fulfill(json=cache | {"blocks": 4321, "nodes": []}))
    page.route("**/api/v1/slots?model=tiny", lambda route: route.fulfill(json=slots | {"replicas": []}))
    page.route("**/api/v1/capacity?model=tiny", lambda route: route.fulfill(json=fits))
    choice = window.open("/cache").get_by_label("Base model")
    choice.select_option("tiny")
    page.get_by_text("of 4,321 blocks").wait_for()
    page.get_by_role("link", name="Savings").click()
    page.wait_for_url("**/ui/cache?model=tiny&tab=savings")
    page.get_by_text("of 4,321 blocks").wait_for()
    choice.select_option("rests")
    page.get_by_text("rests is idle").wait_for()
    choice.select_option(demo["name"])
    page.wait_for_url("**/ui/cache?tab=savings")
    window.open("/slots?model=tiny").get_by_text("of 4,321").wait_for()


LINES_BY_BASE = """async (points) => {
    const base = document.querySelector('meta[name="ui-base"]').content;
    const { linesByBase } = await import(base + "pages/overview/models.js");
    const { kvUse } = await import(base + "lib/bases.js");
    return linesByBase(points, name => `colour of ${name}`, { label: "KV", slot: 4 }, kvUse);
}"""


def test_the_overview_tells_base_models_apart_where_there_are_several(window: Window) -> None:
    demo, tiny = ({"kv_blocks": 100, "kv_blocks_used": used} for used in (50, 25))
    page = window.open("/settings")
    assert page.evaluate(LINES_BY_BASE, [{"by_base": {"demo": demo}}]) == [{"label": "KV", "slot": 4, "values": [0.5]}]
    assert page.evaluate(LINES_BY_BASE, [{"by_base": {"demo": demo}}, {"by_base": {"demo": demo, "tiny": tiny}}]) == [
        {"label": "KV demo", "colour": "colour of demo", "values": [0.5, 0.5]},
        {"label": "KV tiny", "colour": "colour of tiny", "values": [None, 0.25]},
    ]


MEMORY = """async (points) => {
    const base = document.querySelector('meta[name="ui-base"]').content;
    const { linesByPart, linesByReplica } = await import(base + "pages/overview/memory.js");
    const told = lines => lines.map(({label, values}) => [label, ...values]);
    return [told(linesByPart(points)), told(linesByReplica(points))];
}"""


def test_memory_is_told_by_part_and_by_replica(window: Window) -> None:
    one = {"weights": 4, "kv": 2, "adapters": 1, "copies": 0, "rest": 3}
    two = {**one, "kv": 5, "rest": None}
    points = [{"by_base": {"demo": {"memory": {"0": one}}}}, {"by_base": {"demo": {"memory": {"0": one, "1": two}}}}]
    by_part, by_replica = window.open("/settings").evaluate(MEMORY, points)
    assert by_part == [["weights", 4, 8], ["KV blocks", 2, 7], ["adapters", 1, 2], ["engine", 3, 3]]
    assert by_replica == [["replica 0", 10, 10], ["replica 1", 0, 10]]


def test_a_prefix_is_warmed(window: Window) -> None:
    page = window.open("/cache")
    page.get_by_role("button", name="Warm a prefix…").click()
    page.get_by_label("Text").fill("The opening hours of the shop are from nine to five on all days but Sunday. " * 3)
    page.get_by_role("button", name="Warm", exact=True).click()
    window.toast("tokens computed, 0 were there already.")


def test_a_context_is_made_held_and_deleted(window: Window) -> None:
    page = window.open("/contexts")
    page.get_by_role("button", name="New context").first.click()
    page.get_by_label("Name", exact=True).fill("handbook")
    page.get_by_label("Message", exact=True).fill(
        "Returns are taken for thirty days, with the bill and in their box. " * 4
    )
    page.get_by_label("Models", exact=True).fill("pirate")
    page.get_by_role("button", name="Create context").click()
    row = page.get_by_role("row", name="handbook")
    row.get_by_text("warm").wait_for()
    row.get_by_text("held").wait_for()
    row.get_by_role("button", name="Release").click()
    window.toast("handbook may be evicted; it is computed again when the server is idle.")
    row.get_by_role("button", name="Delete…").click()
    page.get_by_label("Type handbook to confirm").fill("handbook")
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_text("No contexts yet").wait_for()


# What is pressed or written in, where it can be seen, and is too low for a finger: with its text.
SMALL_TARGETS = """() => [...document.querySelectorAll(
        "main button:not(.sort, .cut, .fold), main a.button, main select, main summary, .tabs a, "
        + "main input:not([type=checkbox], [type=range])")]
    .filter(target => target.checkVisibility() && !target.closest(".visually-hidden"))
    .map(target => [target.textContent.trim().slice(0, 30), target.getBoundingClientRect().height])
    .filter(([, height]) => height > 0 && height < 39.5)"""
# Sizes of text but for headings, numbers and code.
TEXT_SIZES = """() => [...new Set([...document.querySelectorAll("main *")]
    .filter(one => [...one.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim())
        && !one.closest("h1, h2, code, pre, kbd, .mono, svg, dd"))
    .map(one => Math.round(parseFloat(getComputedStyle(one).fontSize))))].sort()"""


def test_a_phones_targets_are_large_enough_and_text_has_two_sizes(make_window: Any, shop: Server) -> None:
    window = make_window(shop, viewport={"width": 390, "height": 800})
    window.page.goto(f"{shop.url}/ui/")
    window.page.get_by_label("API key").fill(shop.key)
    window.page.keyboard.press("Enter")
    window.page.get_by_role("button", name="Open the navigation").wait_for()
    for path in (
        "/",
        "/adapters",
        "/adapters/sql",
        "/adapters/sql?tab=evals",
        "/requests",
        "/tenants?tab=keys",
        "/jobs",
    ):
        page = window.open(path)
        window.settled()
        assert page.evaluate(SMALL_TARGETS) == [], path
        assert set(page.evaluate(TEXT_SIZES)) <= {12, 14}, path
    row = window.open("/adapters").get_by_role("row", name="sql")
    row.get_by_role("checkbox", name="Select sql").check()
    assert row.get_by_role("cell").nth(1).get_attribute("data-label") == "Name"


def test_the_phones_navigation_opens_and_closes(make_window: Any, shop: Server) -> None:
    window = make_window(shop, viewport={"width": 360, "height": 740})
    window.page.goto(f"{shop.url}/ui/")
    window.page.get_by_label("API key").fill(shop.key)
    window.page.keyboard.press("Enter")
    window.page.get_by_role("button", name="Open the navigation").click()
    window.page.get_by_role("link", name="Playground").click()
    window.page.get_by_role("heading", name="Playground").wait_for()
    window.page.get_by_role("link", name="Audit").wait_for(state="hidden")
    window.page.get_by_role("button", name="Search everything").click()
    window.page.get_by_role("dialog", name="Search").get_by_role("combobox").fill("tools")
    window.page.get_by_role("group", name="Adapters").get_by_role("option", name="tools").click()
    window.page.get_by_role("heading", name="tools", exact=True).wait_for()


def test_the_first_paint_waits_for_no_script_and_no_data(make_window: Any, shop: Server) -> None:
    """The page's own frame is there while all of its code is on the way, and gives way to the page."""
    window: Window = make_window(shop)
    window.sign_in(shop.key)
    page = window.page
    held: list[Route] = []
    is_painted = False
    page.route("**/*.js", lambda route: route.continue_() if is_painted else held.append(route))
    page.goto(f"{shop.url}/ui/adapters", wait_until="commit")
    expect(page.get_by_role("link", name="Multiflora")).to_have_count(1)  # two, of which the stylesheet hides one
    window.until("performance.getEntriesByName('first-contentful-paint').length === 1")
    assert held
    is_painted = True
    for route in held:
        route.continue_()
    page.get_by_role("heading", name="Adapters", level=1).wait_for()
    expect(page.get_by_role("link", name="Multiflora")).to_have_count(1)
