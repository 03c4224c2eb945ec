"""A real Chromium, signed in to a real server. Every page is watched: an error in its console fails the test."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright
from tests.e2e.browser.window import Window
from tests.e2e.conftest import ONE_THREAD, Server, serving

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """For one module: while it runs, no other event loop can."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs Debian's chromium: tests/install_system_packages.sh installs it as root")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The bundled demo for the browser's tests, which may change it: each test uses names of its own. Its hub takes
    requests and never answers, and its webhooks may go to this machine."""
    options = ("--max-num-batched-tokens", "512", "--log-bodies", "--allow-webhook-target", "127.0.0.0/8", *ONE_THREAD)
    with socket.create_server(("127.0.0.1", 0)) as hub, pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.getsockname()[1]}")
        environment.setenv("HF_HUB_OFFLINE", "0")
        with serving(tmp_path_factory.mktemp("shop"), *options) as server:
            yield server
            # What waits for its answer ends, and the server need not wait for it.
            hub.close()


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
