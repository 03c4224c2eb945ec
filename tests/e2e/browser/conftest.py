"""A real Chromium, signed in to a real server. Every page is watched: an error in its console fails the test."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from ..conftest import Server, serving

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
PATIENCE_MS = 15_000


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs Debian's chromium: tests/install_system_packages.sh installs it as root")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The bundled demo for the browser's tests, which may change it: each test uses names of its own."""
    with serving(tmp_path_factory.mktemp("shop"), "--max-num-batched-tokens", "512") as server:
        yield server


class Window:
    """One browser window on one server. errors: what its console complained about."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._note)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", lambda request: self.hosts.add(re.sub(r"^(\w+://[^/]*).*", r"\1", request.url)))

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def expect_error(self, text: str) -> None:
        """One that belongs to the test, such as the browser's own note of a refused request."""
        assert any(text in error for error in self.errors), self.errors
        self.errors = [error for error in self.errors if text not in error]

    def sign_in(self, key: str) -> None:
        self.page.goto(f"{self.url}/ui/")
        self.page.get_by_label("API key").fill(key)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_role("navigation", name="Pages").wait_for()

    def open(self, path: str) -> Page:
        self.page.goto(f"{self.url}/ui{path}")
        self.page.locator("h1").wait_for()
        return self.page

    def settled(self) -> None:
        """Nothing is loading any more."""
        self.page.wait_for_function("!document.querySelector('.skeleton')")

    def toast(self, text: str | re.Pattern[str]) -> None:
        self.page.locator(".toast", has_text=text).first.wait_for()


@pytest.fixture
def make_window(chromium: Browser) -> Iterator[Any]:
    """make_window(server, **options of a browser context); checked when the test ends."""
    windows: list[Window] = []

    def make(server: Server, **options: Any) -> Window:
        context = chromium.new_context(viewport=options.pop("viewport", {"width": 1440, "height": 900}), **options)
        windows.append(Window(context.new_page(), server.url))
        return windows[-1]

    yield make
    for window in windows:
        window.page.context.close()
        assert window.errors == []
        assert window.hosts <= {window.url}


@pytest.fixture
def window(make_window: Any, shop: Server) -> Window:
    """Signed in as an administrator."""
    window: Window = make_window(shop)
    window.sign_in(shop.key)
    return window


@pytest.fixture
def adapter_folder(tmp_path: Path) -> Path:
    """A copy of one of the demo's adapters."""
    source = Path(__file__).parents[3] / "examples/demo/adapters/sql"
    return Path(shutil.copytree(source, tmp_path / "adapter"))
