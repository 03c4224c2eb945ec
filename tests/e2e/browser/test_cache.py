"""The page of the prefix cache: its memory, what it saved, and what prompts lost."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Route
from tests.e2e.browser.window import Window
from tests.e2e.conftest import Server

pytestmark = [pytest.mark.browser, pytest.mark.slow]
PARTS = """async (cache) => {
    const base = document.querySelector('meta[name="ui-base"]').content;
    const { partsOf } = await import(base + "pages/cache/memory.js");
    return partsOf(cache).map(part => [part.label, part.value]);
}"""
CELLS = """async (nodes) => {
    const base = document.querySelector('meta[name="ui-base"]').content;
    const { cellsOf } = await import(base + "pages/cache/cells.js");
    return cellsOf(nodes, null).map(cell => [cell.node?.hash ?? null, cell.saved, cell.from]);
}"""


def run(hash: str, parent: str | None = None, **fields: Any) -> dict[str, Any]:
    usual = {"replica": "0", "digest": None, "owner": None, "tokens": 16, "blocks": 1, "bytes": 10, "hits": 0}
    return {**usual, "pinned": False, "referenced": False, "hash": hash, "parent": parent, **fields}


def test_the_bar_of_memory_adds_up_to_the_whole(window: Window) -> None:
    nodes = [
        run("a", pinned=True, referenced=True, blocks=2),
        run("b", referenced=True, blocks=3),
        run("c", owner="acme", blocks=4),
        run("d", blocks=1),
    ]
    # Of 20 blocks 8 are held: two by a pin, six by requests, three of them cached. One of eleven is too short to list.
    cache = {"blocks": 20, "free": 12, "cached": 11, "bytes_per_block": 10, "nodes": nodes}
    assert window.open("/settings").evaluate(PARTS, cache) == [
        ["requests", 60],
        ["pinned", 20],
        ["kept for acme", 40],
        ["kept for admin", 10],
        ["kept, too little to list", 10],
        ["free", 60],
    ]


def test_what_saved_most_stands_first_in_the_picture(window: Window) -> None:
    """A prompt that started behind a run has found those before it, too."""
    nodes = [run("large", bytes=60), run("shared", hits=1), run("end", "shared", hits=2), run("other", "shared")]
    cells = window.open("/settings").evaluate(CELLS, nodes)
    assert cells[0] == [None, 16 * 3 + 16 * 2, 0]
    shares = {hash: (saved, round(start, 3)) for hash, saved, start in cells if hash}
    assert shares == {"shared": (80, 0), "end": (32, 0), "other": (0, 0.111), "large": (0, 0.333)}


def test_lost_tokens_stand_by_their_cause_with_what_to_do(window: Window, shop: Server) -> None:
    rules = "The shop is open from nine to five on all days but Sunday, and closed on public holidays. " * 3
    starts = [*(f"It is 2026-11-{day} today. " for day in (26, 27)), "Opening hours, as the door has them: "]
    with shop.http() as http:
        for start in starts:
            body = {"model": "redact", "prompt": start + rules, "max_tokens": 1}
            assert http.post("/v1/completions", json=body).status_code == 200
        found = {one["cause"]: one for one in http.get("/api/v1/cache/losses").json()["items"]}
    page = window.open("/cache?tab=misses")
    table = page.get_by_role("group", name="Lost tokens by cause")
    row = table.get_by_role("row").filter(has_text="A time stands there.")
    assert f"{found['timestamp']['lost_tokens']:,}" in row.inner_text()
    assert found["first_seen"]["elsewhere_tokens"] > 0
    table.get_by_text("of this text are cached behind another beginning").wait_for()
    row.get_by_role("link").click()
    page.get_by_role("heading", name="Where the time went").wait_for()


def test_the_tree_is_by_savings_and_folds_what_was_of_no_use(window: Window) -> None:
    named = {"age_seconds": 1.0, "idle_seconds": 1.0, "versions": [], "adapters": []}
    nodes = [run(f"{i:064x}", bytes=100 - i, hits=int(i == 7), **named) for i in range(40)]
    page = window.page
    page.route("**/api/v1/cache", lambda route: route.fulfill(json=route.fetch().json() | {"nodes": nodes}))
    page.route("**/api/v1/cache/*/text*", lambda route: route.fulfill(json={"token_ids": [], "text": "Text"}))
    window.open("/cache")
    rows = page.get_by_role("group", name="Prefixes", exact=True).locator("tbody tr")
    rows.first.wait_for()
    assert rows.count() == 1
    page.get_by_role("button", name="Show those without a hit").click()
    rows.nth(39).wait_for()
    assert "16" in rows.first.inner_text(), "the one with a hit"
    page.get_by_role("group", name="First").get_by_role("button", name="Size").click()
    window.until("!document.querySelector('.tree tbody tr').innerText.includes('16\\t16')")


def test_when_a_prefix_was_last_used_stays_true_while_nothing_happens(window: Window) -> None:
    nodes = [run("a" * 64, age_seconds=7200.0, idle_seconds=61.0, versions=[], adapters=[])]
    page = window.page
    page.clock.install()
    asked: list[Route] = []

    def answer_once(route: Route) -> None:
        """Later ones wait, as if nothing had happened."""
        asked.append(route)
        if len(asked) == 1:
            route.fulfill(json=route.fetch().json() | {"nodes": nodes})

    page.route("**/api/v1/cache", answer_once)
    page.route("**/api/v1/cache/*/text*", lambda route: route.fulfill(json={"token_ids": [], "text": "Text"}))
    window.open("/cache")
    row = page.get_by_role("group", name="Prefixes", exact=True).locator("tbody tr")
    cell = page.get_by_role("group", name="Memory by prefix").get_by_role("button")
    row.get_by_text("1 min ago").wait_for()
    assert (cell.get_attribute("title") or "").endswith("last used 1 min ago")
    page.clock.run_for(300_000)
    row.get_by_text("6 min ago").wait_for()
    assert (cell.get_attribute("title") or "").endswith("last used 6 min ago")
