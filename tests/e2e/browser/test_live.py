"""What is shown follows the server by one stream, and nothing is polled."""

from __future__ import annotations

import json
from collections import Counter
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Route
from tests.e2e.browser.window import Window
from tests.e2e.conftest import Server

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PAGES = ["/", "/adapters", "/adapters/sql?tab=aliases", "/adapters/sql?tab=evals", "/requests", "/replicas", "/tenants"]


def test_a_change_from_elsewhere_is_shown_without_a_reload(window: Window, shop: Server) -> None:
    page = window.open("/tenants")
    window.settled()
    with shop.http() as http:
        assert http.post("/api/v1/tenants", json={"name": "from-elsewhere"}).status_code == 201
        page.get_by_role("link", name="from-elsewhere").wait_for()
        page = window.open("/requests")
        body = {"model": "sql", "prompt": "Live", "max_tokens": 1}
        assert http.post("/v1/completions", json=body).status_code == 200
        page.get_by_role("table", name="Requests").get_by_role("link").nth(0).wait_for()


def test_a_page_asks_for_nothing_while_the_stream_tells_of_nothing(window: Window) -> None:
    page = window.page
    asked: Counter[str] = Counter()
    stamps = {"changed": dict.fromkeys(("records", "adapters", "requests", "engines", "alerts"), "1")}

    def live(route: Route) -> None:
        route.fulfill(status=200, content_type="text/event-stream", body=f"data: {json.dumps(stamps)}\n\n")

    def pass_seconds(count: int) -> None:
        """With what is asked meanwhile answered as it is asked."""
        for _ in range(count // 5):
            page.clock.run_for(5000)
            page.wait_for_load_state("networkidle")

    page.route("**/api/v1/live", live)
    page.on("request", lambda request: asked.update([urlsplit(request.url).path]))
    page.clock.install()
    for path in PAGES:
        window.open(path)
        window.settled()
        pass_seconds(20)  # the first stamps are news, too
        asked.clear()
        pass_seconds(60)
        assert set(asked) == {"/api/v1/live"}, path
        stamps["changed"] = {kind: stamp + "1" for kind, stamp in stamps["changed"].items()}
        pass_seconds(20)
        assert len(asked) > 1, path


def test_what_is_slow_is_looked_at_once_at_a_time_and_again_when_it_is_there(window: Window) -> None:
    """Otherwise a list that takes longer than the next change would never be shown."""
    page = window.page
    numbers = iter(range(1, 1000))

    def live(route: Route) -> None:
        news = {"changed": {"adapters": str(next(numbers))}}
        route.fulfill(status=200, content_type="text/event-stream", body=f"data: {json.dumps(news)}\n\n")

    page.route("**/api/v1/live", live)
    page.clock.install()
    window.open("/docs")
    page.evaluate(
        """async () => {
            const base = document.querySelector('meta[name="ui-base"]').content;
            const { follow } = await import(`${base}lib/live.js`);
            window.looks = 0;
            follow(["adapters"], 0, () => new Promise((done) => { looks += 1; window.done = done; }));
        }"""
    )

    def looks_after(seconds: int) -> int:
        for _ in range(seconds):
            page.clock.run_for(1000)
            page.wait_for_load_state("networkidle")
        return int(page.evaluate("looks"))

    assert looks_after(10) == 1
    page.evaluate("done()")
    assert looks_after(100) == 1, "a look that took ten seconds has a rest of twenty times as long"
    assert looks_after(110) == 2
