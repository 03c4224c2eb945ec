"""A browser window that notes what goes wrong in it."""

from __future__ import annotations

import re
import time

from playwright.sync_api import ConsoleMessage, Page

PATIENCE_MS = 15_000


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
        self.page.wait_for_selector(".skeleton", state="detached")

    def until(self, expression: str) -> None:
        """Asks from outside: what waits inside the page is forbidden by its policy where it has to look twice."""
        end = time.monotonic() + PATIENCE_MS / 1000
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"still not: {expression}"
            self.page.wait_for_timeout(20)

    def toast(self, text: str | re.Pattern[str]) -> None:
        self.page.locator(".toast", has_text=text).first.wait_for()
