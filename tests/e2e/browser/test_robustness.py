"""What the UI makes of hostile text, lost sessions, a server that goes away, very many adapters, and a tenant."""

from __future__ import annotations

import json
import re
import statistics
import time
from typing import Any

import pytest
from playwright.sync_api import Route
from tests.e2e.browser.window import Window
from tests.e2e.conftest import Server

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SCRIPT = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>${alert(1)}"
MANY = 10_000


def test_text_of_others_stays_text(window: Window, shop: Server) -> None:
    with shop.http() as http:
        made = http.post("/api/v1/adapters", json={"name": "hostile", "description": SCRIPT, "tags": ["<b>tag</b>"]})
        assert made.status_code == 201
    for path in ("/adapters", "/adapters/hostile", "/audit", "/adapters/hostile?tab=use"):
        page = window.open(path)
        window.settled()
        assert "owned" not in page.title()
        assert page.locator("img[src=x], main script").count() == 0
    window.open("/adapters/hostile").get_by_text(SCRIPT).wait_for()
    page = window.open("/playground?model=sql")
    page.get_by_label("Message").fill(SCRIPT)
    page.get_by_role("button", name="Run").click()
    page.locator(".answer .text").wait_for()
    assert "owned" not in page.title()


def test_a_hostile_model_card_loses_what_is_dangerous(window: Window) -> None:
    card = (
        "<h1>Card</h1><p onclick='x()'>fine <a href='javascript:alert(1)'>bad</a> <a href='https://a.test'>good</a></p>"
        "<script>document.title='owned'</script><iframe src='https://a.test'></iframe><style>*{display:none}</style>"
        "<svg><script>document.title='owned'</script></svg><form action='https://a.test'><input name=q></form>"
    )
    versions = [{"adapter": "sql", "version": 1, "state": "ready", "has_card": True, "created_at": "2026-01-01T00:00Z"}]
    page = window.page
    page.route("**/api/v1/adapters/sql/versions?*", lambda route: answer(route, {"items": versions}))
    page.route("**/versions/1/card", lambda route: answer(route, {"html": card}))
    window.open("/adapters/sql?tab=card")
    prose = page.locator(".prose")
    prose.get_by_text("fine").wait_for()
    markup = prose.inner_html()
    assert not re.search(r"<script|<iframe|<style|<form|<input|onclick|javascript:", markup)
    assert prose.get_by_role("link", name="good").get_attribute("rel") == "noreferrer noopener"
    assert "owned" not in page.title()
    window.expect_error("Content Security Policy")


def test_a_session_that_ended_asks_for_the_key_and_goes_on_there(window: Window, shop: Server) -> None:
    page = window.open("/requests?show=failed")
    page.context.clear_cookies()
    with shop.http() as http:  # a page asks again once there is something new
        assert http.post("/v1/completions", json={"model": "nobody", "prompt": "hi"}).status_code == 404
    page.get_by_text("The session has ended").wait_for()
    page.get_by_label("API key").fill(shop.key)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Requests", level=1).wait_for()
    assert page.url.endswith("/ui/requests?show=failed")
    window.expect_error("401")


def test_a_wrong_key_is_named_so(make_window: Any, shop: Server) -> None:
    window = make_window(shop)
    window.page.goto(f"{shop.url}/ui/adapters")
    window.page.get_by_label("API key").fill("mf-wrong")
    window.page.get_by_role("button", name="Sign in").click()
    window.page.get_by_text("This key is not valid").wait_for()
    window.expect_error("401")


def test_signing_out_leaves_nothing_behind(window: Window) -> None:
    page = window.open("/adapters")
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("API key").wait_for()
    page.reload()
    page.get_by_label("API key").wait_for()
    assert page.context.cookies() == []


def test_a_server_that_goes_and_comes_back(window: Window) -> None:
    page = window.open("/adapters")
    page.get_by_role("link", name="sql", exact=True).wait_for()
    page.context.set_offline(True)
    page.get_by_text("The server is not answering.").wait_for()
    assert page.get_by_role("link", name="sql", exact=True).is_visible()
    page.context.set_offline(False)
    page.get_by_text("The server is not answering.").wait_for(state="detached")
    window.errors.clear()


def test_ten_thousand_adapters_scroll(window: Window) -> None:
    names = [f"adapter-{i:05}" for i in range(MANY)]
    items = [
        {"name": name, "description": "", "tags": ["x"], "owner": None, "aliases": {"default": {"version": 1}}}
        | {"ready_versions": [1], "digests": {"1": name}, "rank": 8, "demo_prompt": None}
        for name in names
    ]

    def page_of(route: Route) -> None:
        token = re.search(r"page_token=(\d+)", route.request.url)
        start = int(token[1]) if token else 0
        following = start + 1000
        body = {"items": items[start:following], "next_page_token": str(following) if following < MANY else None}
        answer(route, body)

    window.page.route("**/api/v1/adapters?*", page_of)
    page = window.open("/adapters")
    page.get_by_text("10,000 on").wait_for()
    table = page.get_by_role("table", name="Adapters")
    assert table.get_attribute("aria-rowcount") == str(MANY + 1)
    assert page.locator(".vbody .vrow").count() < 80
    table.focus()
    page.keyboard.press("End")
    page.get_by_role("link", name=names[-1]).wait_for()
    frames = page.evaluate(SCROLL)
    assert statistics.median(frames) < 1000, frames
    assert page.get_by_role("row").count() < 200, "only what is seen is drawn"
    page.get_by_label("Search name, description, tag").fill("adapter-00042")
    page.get_by_text("1 row", exact=True).wait_for()
    table.focus()
    page.keyboard.press("ArrowDown")
    page.unroute("**/api/v1/adapters?*")
    page.keyboard.press("Enter")
    page.wait_for_url("**/ui/adapters/adapter-00042")
    page.get_by_role("heading", name="Not found").wait_for()
    page.go_back()
    page.get_by_role("heading", name="Adapters", exact=True, level=1).wait_for()
    assert page.url.endswith("?q=adapter-00042")
    window.errors = [error for error in window.errors if "404" not in error]


# Milliseconds between frames while the table is scrolled through in large steps.
# Instead of the server: pages of 1,000 of the last 50,000 requests, and none that changed since.
FAKE_REQUESTS = """() => {
  const real = window.fetch;
  const one = (i) => ({
    id: `r${i}`, at: 1e9 - i, tenant: null, key_id: null, model: `model-${i % 7}`, adapter: null, version: null,
    digest: null, path: "/v1/completions", stream: false, status: i % 100 ? 200 : 500, code: null, prompt_tokens: 9,
    cached_tokens: 0, cache_write_tokens: 0, completion_tokens: 1, finish_reason: "stop", queue_seconds: 0,
    load_seconds: null, prefill_seconds: 0.1, decode_seconds: 0.1,
    ttft: 0.1 + (i % 10) / 10, total_seconds: 2, device_seconds: 0.1,
    miss_reason: "", timeline: [], count: 1, placement: null, body: null,
  });
  window.fetch = async (path, init) => {
    if (!String(path).startsWith("/api/v1/requests?")) return real(path, init);
    const asked = new URLSearchParams(path.split("?")[1]);
    const start = Number(asked.get("page_token") ?? 0);
    const items = asked.has("since") ? [] : Array.from({ length: 1000 }, (_, i) => one(start + i));
    const following = asked.has("since") || start + 1000 === 50000 ? null : String(start + 1000);
    const page = { items, next_page_token: following, cursor: "c", is_complete: !asked.has("since") };
    return new Response(JSON.stringify(page), { headers: { "Content-Type": "application/json" } });
  };
}"""


def test_fifty_thousand_requests_are_loaded_on_demand_filtered_and_scroll(window: Window) -> None:
    page = window.page
    page.add_init_script(f"({FAKE_REQUESTS})()")
    window.open("/requests")
    page.get_by_text("The newest 1,000 of this server process").wait_for()
    page.get_by_role("button", name="Load older ones").click()
    page.get_by_text("The newest 50,000 of this server process").wait_for()
    assert page.get_by_role("button", name="Load older ones").count() == 0
    table = page.get_by_role("table", name="Requests")
    assert table.get_attribute("aria-rowcount") == "50001"
    table.focus()
    page.keyboard.press("End")
    page.locator("a[href$='/requests/r49999']").wait_for()
    frames = page.evaluate(SCROLL)
    assert statistics.median(frames) < 1000, frames
    assert page.locator(".vbody .vrow").count() < 80, "only what is seen is drawn"
    page.get_by_role("button", name="Failed", exact=True).click()
    page.get_by_text("500 rows", exact=True).wait_for()


SCROLL = """async () => {
  const box = document.querySelector('.viewport');
  const gaps = [];
  let last = performance.now();
  for (let i = 0; i < 60; i += 1) {
    box.scrollTop = (i * 7919 * 44) % box.scrollHeight;
    await new Promise(requestAnimationFrame);
    gaps.push(performance.now() - last);
    last = performance.now();
  }
  return gaps;
}"""


def test_slow_answers_show_that_they_are_awaited(window: Window) -> None:
    def later(route: Route) -> None:
        time.sleep(0.7)
        route.continue_()

    window.page.route("**/api/v1/audit?*", later)
    page = window.page
    page.goto(f"{window.url}/ui/audit", wait_until="commit")
    page.get_by_label("Loading").first.wait_for()
    page.get_by_role("table", name="Audit").wait_for()


def test_a_failure_is_shown_with_a_way_out(window: Window) -> None:
    page = window.page
    problem = {"title": "Broken", "status": 500, "detail": "The database is locked."}
    page.route("**/api/v1/audit?*", lambda route: answer(route, problem, 500))
    window.open("/audit").get_by_text("The database is locked.").wait_for()
    page.unroute("**/api/v1/audit?*")
    page.get_by_role("button", name="Try again").click()
    page.get_by_role("table", name="Audit").wait_for()
    window.expect_error("500")


def test_a_tenant_sees_what_it_may(make_window: Any, shop: Server) -> None:
    with shop.http() as http:
        assert http.post("/api/v1/tenants", json={"name": "guest", "allowed_adapters": ["sql"]}).status_code == 201
        key = http.post("/api/v1/keys", json={"name": "ui", "role": "tenant", "tenant": "guest"}).json()["key"]
        body = {"model": "sql", "prompt": "hi", "max_tokens": 1}
        assert http.post("/v1/completions", json=body, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    window = make_window(shop)
    window.sign_in(key)
    page = window.page
    page.wait_for_url("**/ui/adapters")
    page.get_by_role("link", name="sql", exact=True).wait_for()
    names = page.get_by_role("navigation", name="Pages").get_by_role("link").all_inner_texts()
    own = ["Requests", "Contexts", "Adapters", "Register", "Playground", "Usage and limits", "Batches", "Jobs"]
    assert names == [*own, "Documentation"]
    assert page.get_by_role("link", name="pirate", exact=True).count() == 0
    page.keyboard.press("Control+k")
    search = page.get_by_role("dialog", name="Search")
    search.get_by_role("combobox").fill("s")
    search.get_by_role("option", name="sql@1").wait_for()
    assert set(names) >= set(search.get_by_role("group", name="Pages").get_by_role("option").all_inner_texts())
    assert search.get_by_role("group", name=re.compile("Tenants|Settings")).count() == 0
    search.get_by_text("Could not be searched").wait_for(state="hidden")
    page.keyboard.press("Escape")
    for path in (
        "/adapters/sql",
        "/adapters/sql?tab=aliases",
        "/adapters/sql?tab=activity",
        "/adapters/sql?tab=evals",
        "/usage",
        "/requests",
        "/contexts",
        "/playground",
        "/register",
        "/batches",
        "/jobs",
    ):
        window.open(path)
        window.settled()
        assert page.get_by_role("button", name=re.compile("Archive|Cancel…|Change|Pin|Roll back")).count() == 0
        assert page.get_by_text("Not for this key").count() == 0
    window.open("/requests").get_by_role("link", name=re.compile("^[0-9]+:[0-9]+:[0-9]+")).first.click()
    page.get_by_role("heading", name="What was asked").wait_for()
    assert page.get_by_text("Replica").count() == page.get_by_text("All recent misses").count() == 0
    window.open("/usage").get_by_text(re.compile("no limit, peak [1-9]")).first.wait_for()
    page.get_by_role("row").filter(has_text=re.compile("^ui key_")).wait_for()
    page.goto(f"{shop.url}/ui/audit")
    page.get_by_text("Not for this key").wait_for()
    window.errors = [error for error in window.errors if "403" not in error]


def test_the_theme_is_kept(window: Window) -> None:
    page = window.open("/adapters")
    page.get_by_label("Theme").first.select_option("dark")
    dark = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    page.reload()
    page.locator("h1").wait_for()
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == dark == "rgb(18, 17, 20)"


def answer(route: Route, body: Any, status: int = 200) -> None:
    route.fulfill(status=status, content_type="application/json", body=json.dumps(body))
