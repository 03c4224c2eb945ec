"""An operator's five questions of a day, answered in the UI alone, from its first page on: on a desktop and a phone."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect
from tests.e2e.browser.window import Window
from tests.e2e.conftest import ONE_THREAD, Server, serving

SCREENS = {"desktop": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}
OPTIONS = ("--log-bodies", "--price-per-device-second", "0.001", "--price-per-cached-token", "0.0000005", *ONE_THREAD)
SHOP = (
    "You answer for a shop that sells lamps, chairs and tables. Name the price of each product that you mention. " * 3
)
MODULE = "base_model.model.model.layers.0.self_attn.q_proj"
WIDTH = 256


@dataclass
class Day:
    """A server after a day's traffic. split: the X-Request-ID of one that a split took."""

    server: Server
    split: str
    split_version: int


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    with (
        serving(tmp_path_factory.mktemp("day"), *OPTIONS) as server,
        server.http() as admin,
    ):
        keys = {name: _tenant(admin, name) for name in ("acme", "globex")}
        for name in ("support", "billing"):
            _adapter(admin, name)
        _lose_the_cache(server, keys["globex"])
        _ask(server, keys["acme"], "extract", "All of them", max_tokens=96, ignore_eos=True)
        _roll_back(admin, server, keys["acme"])
        split, version = _split(admin, server, keys["acme"])
        yield Day(server, split, version)


def _tenant(admin: httpx.Client, name: str) -> str:
    admin.post("/api/v1/tenants", json={"name": name}).raise_for_status()
    answer = admin.post("/api/v1/keys", json={"tenant": name, "name": f"{name}-app", "role": "tenant"})
    return str(answer.raise_for_status().json()["key"])


def _adapter(admin: httpx.Client, name: str) -> None:
    """With two versions of one rank, which change no answer."""
    admin.post("/api/v1/adapters", json={"name": name}).raise_for_status()
    offsets = [[0, 4 * WIDTH], [4 * WIDTH, 8 * WIDTH]]
    shapes = {"lora_A": [1, WIDTH], "lora_B": [WIDTH, 1]}
    header = json.dumps(
        {
            f"{MODULE}.{part}.weight": {"dtype": "F32", "shape": shape, "data_offsets": offset}
            for (part, shape), offset in zip(shapes.items(), offsets, strict=True)
        }
    ).encode()
    weights = struct.pack("<Q", len(header)) + header + bytes(8 * WIDTH)
    for alpha in (1, 2):
        config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "multiflora-demo"}
        config |= {"r": 1, "lora_alpha": alpha, "target_modules": ["q_proj"], "layers_to_transform": [0]}
        files = {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": weights}
        parts = [("files", part) for part in files.items()]
        answer = admin.post(f"/api/v1/adapters/{name}/versions", files=parts, params={"wait": "true"})
        answer.raise_for_status()


def _ask(server: Server, key: str, model: str, text: str, system: str = SHOP, **more: Any) -> str:
    """The answer's X-Request-ID."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    body = {"model": model, "messages": messages, "max_tokens": 4, **more}
    headers = {"Authorization": f"Bearer {key}"}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=120)
    return answer.raise_for_status().headers["x-request-id"]


def _lose_the_cache(server: Server, key: str) -> None:
    for number in range(6):
        _ask(server, key, "pirate", f"Which lamp {number}?")
    for number in range(14):
        _ask(server, key, "pirate", f"Which chair {number}?", f"It is 2026-03-01 10:{number:02}:07. {SHOP}")


def _roll_back(admin: httpx.Client, server: Server, key: str) -> None:
    """A bound that no answer keeps."""
    alias = "/api/v1/adapters/support/aliases/default"
    etag = admin.get(alias).json()["etag"]
    rollout = {"candidate": 2, "percent": 50, "min_samples": 5, "max_p95_seconds": 0.001, "why": "newer tickets"}
    admin.post(f"{alias}/rollout", json=rollout, headers={"If-Match": etag}).raise_for_status()
    for number in range(60):
        _ask(server, key, "support", "Hello", "Help.", user=f"user-{number}")
        if admin.get(f"{alias}/rollout").json()["state"] != "running":
            return
    raise AssertionError("the rollout was not judged")


def _split(admin: httpx.Client, server: Server, key: str) -> tuple[str, int]:
    """The X-Request-ID of an answer of the split, and the version that gave it."""
    alias = "/api/v1/adapters/billing/aliases/default"
    etag = admin.get(alias).json()["etag"]
    admin.put(alias, json={"split": {"1": 50, "2": 50}}, headers={"If-Match": etag}).raise_for_status()
    id = _ask(server, key, "billing", "Which invoice?", "Help.", user="ada")
    return id, admin.get(f"/api/v1/requests/{id}").json()["version"]


@pytest.fixture(params=SCREENS)
def page(request: pytest.FixtureRequest, make_window: Any, day: Day) -> Page:
    """The first page, as an operator finds it."""
    window: Window = make_window(day.server, viewport=SCREENS[request.param])
    page = window.page
    page.goto(day.server.url)
    page.get_by_label("API key").fill(day.server.key)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Overview").wait_for()
    return page


def seen(element: Locator) -> None:
    """On the screen without scrolling."""
    expect(element).to_be_in_viewport()


def to(page: Page, name: str) -> None:
    """By the navigation, which a phone opens first."""
    opener = page.get_by_role("button", name="Open the navigation")
    if opener.is_visible():
        opener.click()
    page.get_by_role("navigation", name="Pages").get_by_role("link", name=name).click()


def test_why_a_rollout_was_rolled_back_is_told_first(page: Page) -> None:
    told = page.get_by_role("status").filter(has_text="Version 2 of support@default was rolled back to version 1")
    seen(told.get_by_text(re.compile("Because .*P95 latency is .* the bound is 0.001 s")))
    told.get_by_role("link", name="Look").click()
    expect(page.get_by_role("region", name="Rollout", exact=True)).to_contain_text("newer tickets")


def test_why_a_tenants_cache_stopped_hitting_is_told_first(page: Page) -> None:
    told = page.get_by_role("status").filter(has_text="Prompts of globex to pirate miss the prefix cache: time")
    expect(told).to_contain_text("looks like a date or time: move it behind the context")
    seen(told.get_by_text("looks like a date or time"))
    to(page, "Tenants and keys")
    page.get_by_role("link", name="globex").click()
    seen(page.get_by_role("status").filter(has_text="looks like a date or time"))


def test_which_request_cost_most_is_listed_and_its_page_says_how_much(page: Page) -> None:
    first = page.get_by_role("region", name="Costliest requests").get_by_role("listitem").first
    expect(first).to_contain_text(re.compile(r"extract.*USD"))
    first.get_by_role("link").click()
    page.wait_for_url(re.compile(r"/ui/requests/[0-9a-f]{32}$"))
    expect(page.get_by_role("main")).to_contain_text("All of them")
    seen(page.get_by_text(re.compile(r"^USD\s0\.\d+ ")))
    page.go_back()
    page.get_by_role("region", name="Costliest requests").get_by_role("link", name="All").click()
    expect(page.get_by_role("table", name="Requests").get_by_role("row").nth(1)).to_contain_text("extract")


def test_what_a_tenant_spent_stands_beside_its_name(page: Page) -> None:
    to(page, "Tenants and keys")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="globex"))
    seen(row.get_by_text(re.compile(r"^USD\s0\.\d+$")))


def test_which_version_answered_is_found_by_the_requests_id(page: Page, day: Day) -> None:
    page.get_by_role("button", name=re.compile("^Search")).locator("visible=true").click()
    page.get_by_role("combobox", name="Adapters, versions, requests").fill(day.split)
    page.get_by_role("listbox", name="Found").get_by_role("option").first.click()
    page.wait_for_url(re.compile(r"/ui/requests/[0-9a-f]{32}$"))
    seen(page.get_by_text(f"billing version {day.split_version}"))
