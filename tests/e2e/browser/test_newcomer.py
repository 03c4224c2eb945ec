"""What helps those who are new: the first steps of an empty server, and the tour of the demo."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.browser.window import Window
from tests.e2e.conftest import ONE_THREAD, ROOT, Server, serving

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The demo's base model, without an adapter."""
    with serving(tmp_path_factory.mktemp("empty"), str(ROOT / "examples/demo/base"), *ONE_THREAD) as server:
        yield server


def test_an_empty_server_shows_steps_that_are_ticked_as_they_are_done(
    make_window: Any, empty: Server, adapter_folder: Path
) -> None:
    window = make_window(empty)
    window.sign_in(empty.key)
    page = window.open("/")
    steps = page.get_by_role("region", name="First steps").get_by_role("listitem")
    steps.filter(has_text="multiflora adapters add my-adapter").wait_for()
    assert steps.count() == 3
    done = page.get_by_role("region", name="First steps").locator("li.done")
    assert done.count() == 0
    assert steps.get_by_role("button", name="Copy").count() == 3
    files = [("files", (path.name, path.read_bytes())) for path in adapter_folder.iterdir()]
    with empty.http() as http:
        assert http.post("/api/v1/adapters", json={"name": "mine"}).status_code == 201
        assert http.post("/api/v1/adapters/mine/versions", files=files).status_code == 201
        done.filter(has_text="Register an adapter").wait_for()
        steps.filter(has_text="multiflora adapters alias mine canary 1").wait_for()
        assert http.post("/v1/completions", json={"model": "mine", "prompt": "a", "max_tokens": 1}).status_code == 200
        done.filter(has_text="Ask it").wait_for()
        assert done.count() == 2
        assert http.put("/api/v1/adapters/mine/aliases/canary", json={"version": 1}).status_code in (200, 201)
    done.filter(has_text="Give a version a name").wait_for()
    # It is new no longer.
    page = window.open("/")
    page.get_by_text("All well").wait_for()
    page.get_by_role("region", name="Memory").wait_for()
    assert page.get_by_role("region", name="First steps").count() == 0


def test_the_tour_does_what_it_tells_and_leaves_nothing(window: Window, shop: Server) -> None:
    page = window.open("/tour")
    shown = page.locator(".numbered")
    for step in range(1, 6):
        page.locator(".numbered > li.now button").wait_for()
        page.keyboard.press("Enter")
        page.locator(f".numbered > li.done:nth-child({step})").wait_for()
    shown.get_by_text("rolled back", exact=True).wait_for()
    shown.get_by_text(re.compile(r"the candidate's P95 latency is .* s; the bound is 0.001 s")).wait_for()
    shown.get_by_text("timestamp", exact=True).wait_for()
    with shop.http() as http:
        (adapter,) = http.get("/api/v1/adapters?tag=tour").json()["items"]
        rollout = http.get(f"/api/v1/adapters/{adapter['name']}/aliases/default/rollout").json()
        assert (rollout["state"], adapter["aliases"]) == ("rolled_back", {"default": {"version": 1}})
        with page.expect_response(lambda answer: answer.request.method == "DELETE" and answer.status == 204):
            page.get_by_role("button", name="End the tour").click()
        assert http.get("/api/v1/adapters?tag=tour").json()["items"] == []


def test_a_tour_that_is_left_in_the_middle_is_removed(window: Window, shop: Server) -> None:
    with shop.http() as http:
        assert http.post("/api/v1/adapters", json={"name": "tour-lost", "tags": ["tour"]}).status_code == 201
        page = window.open("/tour")
        page.get_by_role("status").filter(has_text="tour-lost").get_by_role("button", name="Remove").click()
        window.toast("Removed.")
        assert http.get("/api/v1/adapters?tag=tour").json()["items"] == []
        page.get_by_role("button", name="Make it").click()
        page.get_by_role("button", name="Start it").click()
        page.get_by_role("button", name="Send requests").wait_for()
        with page.expect_response(lambda answer: answer.request.method == "DELETE" and answer.status == 204):
            page.get_by_role("link", name="Adapters", exact=True).click()
        assert http.get("/api/v1/adapters?tag=tour").json()["items"] == []
