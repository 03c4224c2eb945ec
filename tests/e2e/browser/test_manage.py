"""Webhooks, jobs, batches and base models: seen, changed and ended in a browser."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Route, expect
from tests.e2e.browser.window import Window
from tests.e2e.conftest import Server

pytestmark = [pytest.mark.browser, pytest.mark.slow]

# Whether the button beside a text lies on it.
COVERED = """pre => {
    const text = document.createRange();
    text.selectNodeContents(pre);
    const button = pre.nextElementSibling.getBoundingClientRect();
    return [...text.getClientRects()].some(line => line.right > button.left && line.top < button.bottom);
}"""


@dataclass
class Receiver:
    """Of webhooks. status: what it answers; types: of the messages that came."""

    url: str = ""
    status: int = 204
    types: list[str] = field(default_factory=list)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.types.append(json.loads(body)["type"])
            self.send_response(receiver.status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield receiver
        server.shutdown()


def test_a_webhook_is_made_tried_changed_and_deleted(window: Window, receiver: Receiver) -> None:
    none = {"items": [], "next_page_token": None}
    window.page.route("**/api/v1/webhooks", lambda route: route.fulfill(json=none))
    page = window.open("/webhooks")
    page.get_by_text("No webhooks yet").wait_for()
    icons = page.get_by_role("button", name="New webhook").locator("svg")
    assert [icon.bounding_box()["width"] for icon in icons.all()] == [16, 16]
    page.unroute("**/api/v1/webhooks")
    icons.first.click()
    page.get_by_label("URL", exact=True).fill("ftp://example.com/hook")
    page.get_by_role("button", name="Create webhook").click()
    page.get_by_text("A webhook's URL is http:// or https://").wait_for()
    window.expect_error("403")
    page.get_by_label("URL", exact=True).fill(receiver.url)
    page.get_by_label("Events", exact=True).fill("tenant.*, webhook.nothing")
    page.get_by_label("Description", exact=True).fill("The shop's chat")
    page.get_by_role("button", name="Create webhook").click()
    page.set_viewport_size({"width": 390, "height": 800})
    secret = page.get_by_role("group", name="Secret")
    assert secret.inner_text().startswith("whsec_")
    assert not secret.evaluate(COVERED), "the button that copies it hides none of it"
    page.set_viewport_size({"width": 1440, "height": 900})
    page.get_by_role("button", name="Done").click()

    row = page.get_by_role("row", name=receiver.url)
    for text in ("enabled", "tenant.*", "never", "The shop's chat"):
        row.get_by_text(text, exact=True).wait_for()
    row.get_by_role("button", name="Send test").click()
    window.toast("took the test message: 204")
    row.get_by_text("delivered", exact=True).wait_for()
    receiver.status = 503
    row.get_by_role("button", name="Send test").click()
    window.toast("The test message was not taken: it answered 503")
    row.get_by_text("it answered 503").wait_for()

    row.get_by_role("link", name=receiver.url).click()
    page.get_by_role("heading", name="Webhook", exact=True, level=1).wait_for()
    page.get_by_role("button", name="Failed").click()
    page.wait_for_url("**/ui/webhooks/wh_*?state=failed")
    deliveries = page.get_by_role("region", name="Deliveries").get_by_role("row", name="webhook.test")
    deliveries.get_by_text("503", exact=True).wait_for()
    assert deliveries.count() == 1, "the one that was delivered is another state's"
    receiver.status = 204
    deliveries.get_by_role("button", name="Send again").click()
    window.toast("webhook.test is sent again.")
    page.get_by_role("button", name="Delivered").click()
    deliveries.nth(1).wait_for()
    assert receiver.types == ["webhook.test"] * 3

    page.get_by_role("button", name="Edit…").click()
    page.get_by_label("Events", exact=True).fill("alias.*")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("alias.*", exact=True).wait_for()
    page.locator(".toast", has_text="is changed").get_by_role("button", name="Undo").click()
    page.get_by_text("webhook.nothing", exact=True).wait_for()
    page.get_by_role("button", name="Disable", exact=True).click()
    page.get_by_text("disabled", exact=True).wait_for()
    page.get_by_role("button", name="Enable", exact=True).click()
    page.get_by_text("enabled", exact=True).wait_for()

    host = receiver.url.split("/")[2]
    page.get_by_role("button", name="New secret…").click()
    page.get_by_label(f"Type {host} to confirm").fill(host)
    page.get_by_role("button", name="Create a new secret").click()
    assert page.get_by_role("group", name="Secret").inner_text().startswith("whsec_")
    page.get_by_role("button", name="Done").click()
    page.get_by_role("button", name="Delete…").click()
    page.get_by_label(f"Type {host} to confirm").fill(host)
    page.get_by_role("button", name="Delete", exact=True).click()
    page.wait_for_url("**/ui/webhooks")
    window.settled()
    assert page.get_by_text(receiver.url).count() == 0


def test_jobs_are_followed_filtered_and_cancelled(window: Window, shop: Server, adapter_folder: Path) -> None:
    files = {"adapter_config.json": (adapter_folder / "adapter_config.json").read_bytes()}
    files["adapter_model.safetensors"] = b"no tensors"
    with shop.http() as http:
        assert http.post("/api/v1/adapters", json={"name": "far"}).status_code == 201
        versions = "/api/v1/adapters/far/versions"
        assert http.post(versions, files=[("files", one) for one in files.items()]).status_code == 422
        assert http.post(versions, json={"source": "hf://org/far"}).status_code == 202
    page = window.open("/jobs?q=far")
    broken, running = (page.get_by_role("row", name=f"far@{number}") for number in (1, 2))
    broken.get_by_text("failed", exact=True).wait_for()
    broken.get_by_text("Version 1 of 'far' was rejected").wait_for()
    assert broken.get_by_role("button", name="Cancel…").count() == 0
    page.get_by_role("button", name="Running").click()
    page.wait_for_url("**/ui/jobs?q=far&state=running")
    running.get_by_text("hf://org/far").wait_for()
    broken.wait_for(state="detached")
    running.get_by_role("button", name="Cancel…").click()
    page.get_by_label("Type far@2 to confirm").fill("far@2")
    page.get_by_role("button", name="Cancel the job").click()
    window.toast("far@2 is not made.")
    page.get_by_text("No running jobs").wait_for()
    page.get_by_role("button", name="Show all").click()
    running.get_by_text("cancelled", exact=True).wait_for()
    running.get_by_text("The job was cancelled.").wait_for()
    running.get_by_role("link", name="far@2").click()
    page.wait_for_url("**/ui/adapters/far?compare=2")


def test_the_newest_jobs_are_shown_and_older_ones_on_demand(window: Window, shop: Server) -> None:
    with shop.http() as http:
        (job, *_) = http.get("/api/v1/jobs?limit=1").json()["items"]

    def answer(route: Route) -> None:
        limit = int(route.request.url.rpartition("limit=")[2])
        items = [job | {"id": f"job_{i}", "version": i} for i in range(limit)]
        route.fulfill(json={"items": items, "next_page_token": "older"})

    window.page.route("**/api/v1/jobs?*", answer)
    page = window.open("/jobs?q=@99")
    page.get_by_text("The newest 100 are loaded.").wait_for()
    page.get_by_role("button", name="Load older ones").click()
    page.get_by_text("The newest 1,000 are loaded.").wait_for()
    assert page.get_by_role("button", name="Load older ones").count() == 0


def test_batches_are_followed_and_cancelled_and_their_files_are_there(window: Window, shop: Server) -> None:
    page = window.open("/batches")
    page.get_by_text("No batches yet").wait_for()
    with shop.http() as http:
        done = _batch(http, [_line(i, "sql" if i else "nobody") for i in range(3)])
        bad = _batch(http, [{"custom_id": "x"}])
        long = _batch(http, [_line(i, "sql", max_tokens=400) for i in range(400)])
    page.get_by_role("row", name=done).get_by_text("3 of 3").wait_for()
    row = page.get_by_role("row", name=done)
    with page.expect_download() as download:
        row.get_by_role("link", name="answers").click()
    answers = [json.loads(line) for line in download.value.path().read_text(encoding="utf-8").splitlines()]
    assert sorted(answer["custom_id"] for answer in answers) == ["r1", "r2"]
    assert download.value.suggested_filename == f"{done}-answers.jsonl"
    row.get_by_role("link", name="errors").wait_for()
    page.get_by_role("row", name=bad).get_by_text("Line 1 is not a request").wait_for()
    running = page.get_by_role("row", name=long)
    running.get_by_text("in progress").wait_for()
    running.get_by_role("button", name="Cancel…").click()
    page.get_by_label(f"Type {long} to confirm").fill(long)
    page.get_by_role("button", name="Cancel the batch").click()
    running.get_by_text("cancelled").wait_for()
    page.get_by_role("combobox", name="State").select_option("failed")
    page.wait_for_url("**/ui/batches?state=failed")
    assert page.locator("tbody tr").count() == 1
    page.get_by_role("link", name="Their requests").click()
    page.wait_for_url("**/ui/requests?key=batches")
    page.get_by_role("row", name=re.compile("sql v1 .* admin 200")).first.wait_for()


def _line(number: int, model: str, **more: Any) -> dict[str, Any]:
    body = {"model": model, "prompt": f"SELECT {number}", "max_tokens": 2, **more}
    return {"custom_id": f"r{number}", "method": "POST", "url": "/v1/completions", "body": body}


def _batch(http: httpx.Client, lines: list[dict[str, Any]]) -> str:
    """As its page names it."""
    text = "\n".join(map(json.dumps, lines))
    file = http.post("/v1/files", files={"file": ("lines.jsonl", text.encode())}, data={"purpose": "batch"}).json()
    asked = {"input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
    made = http.post("/v1/batches", json=asked)
    assert made.status_code == 200, made.text
    return str(made.json()["id"])[:14]


def test_a_model_that_is_loaded_is_followed_and_unloaded(window: Window, shop: Server) -> None:
    """Its files and engines are played: what is looked at is what the page makes of the answers. That there is another
    one, a change of the server's records says."""
    window.page.route("**/api/v1/models*", models := PlayedModels())
    window.page.route("**/api/v1/models/*", models)
    page = window.open("/models")
    page.get_by_role("row", name="demo").get_by_text("default").wait_for()
    page.get_by_role("button", name="Load a model").click()
    numbers = (("Replicas at most", "2"), ("Replicas at least", "0"), ("Idle seconds", "600"))
    for label, value in (("Name", "tiny"), ("Source", "/models/tiny"), *numbers):
        page.get_by_role("dialog").get_by_label(label).fill(value)
    page.get_by_role("button", name="Load", exact=True).click()
    window.toast("tiny is being loaded.")
    assert models.asked == {
        "name": "tiny",
        "source": "/models/tiny",
        "max_replicas": 2,
        "min_replicas": 0,
        "idle_seconds": 600,
    }
    row = page.get_by_role("row", name="tiny")
    row.get_by_role("img", name="Replicas of tiny that serve: 0%").wait_for()
    models.loaded()
    with shop.http() as http:
        assert http.post("/api/v1/adapters", json={"name": "beside-a-model"}).status_code == 201
    row.get_by_text("2 of 2").wait_for()
    row.get_by_text("0 at least; idle after 10 min").wait_for()
    row.get_by_role("button", name="Unload…").click()
    page.get_by_label("Type tiny to confirm").fill("tiny")
    page.get_by_role("button", name="Unload", exact=True).click()
    window.toast("tiny is unloaded.")
    row.wait_for(state="detached")


def test_what_would_fit_is_asked_of_the_shown_base_model_s_length(window: Window) -> None:
    items = [_model("demo", is_default=True, max_model_len=77), _model("tiny", max_model_len=1234)]
    window.page.route("**/api/v1/models", lambda route: route.fulfill(json={"items": items, "next_page_token": None}))
    expect(window.open("/slots").get_by_label("Tokens of each")).to_have_value("77")
    for text in ("demo, up to 77 tokens", "tiny, up to 1,234 tokens"):
        window.open("/settings").get_by_text(text).wait_for()


class PlayedModels:
    """asked: the body of the last POST."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self._items = [_model("demo", is_default=True)]

    def loaded(self) -> None:
        replicas = [{"id": f"tiny-{number}", "state": "ready"} for number in range(2)]
        self._items[1] |= {"state": "ready", "replicas": replicas}

    def __call__(self, route: Route) -> None:
        if route.request.method == "POST":
            self.asked = route.request.post_data_json
            asked = {key: self.asked[key] for key in ("min_replicas", "max_replicas", "idle_seconds")}
            self._items.append(_model("tiny", state="loading", **asked, replicas=[]))
        if route.request.method == "DELETE":
            del self._items[1]
        route.fulfill(json={"items": self._items, "next_page_token": None})


def _model(name: str, **fields: Any) -> dict[str, Any]:
    shown = {"name": name, "source": name, "state": "ready", "is_default": False, "min_replicas": 1, "max_replicas": 1}
    counts = {"idle_seconds": None, "adapters": 0, "in_flight": 0, "memory_bytes": 1 << 20, "job": None}
    return {**shown, **counts, "max_model_len": 720, "replicas": [{"id": "0", "state": "ready"}], **fields}
