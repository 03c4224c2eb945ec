"""Single sign-on in a browser: to a certified provider, back to the page that was wanted, and out."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from tests.e2e.conftest import ONE_THREAD, serving
from tests.platform.ui.oidc import SITE, provider, serve_flags

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_person_signs_in_goes_on_and_signs_out(chromium: Browser, tmp_path: Path) -> None:
    with provider() as issuer, serving(tmp_path, *ONE_THREAD, *serve_flags(issuer)):
        page = chromium.new_context().new_page()
        page.goto(f"{SITE}/ui/audit?q=session")
        page.get_by_role("link", name="Sign in with single sign-on").click()
        page.locator("input[name=login]").fill("u-alice")
        page.locator("input[name=password]").fill("any")
        page.locator("button[type=submit]").click()
        page.get_by_role("button", name="Continue").click()
        page.wait_for_url(f"{SITE}/ui/audit?q=session")
        expect(page.get_by_role("cell", name="admin/oidc:alice@example.com").first).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url(f"{issuer}/session/end?*")
        page.get_by_role("button", name="Yes, sign me out").click()
        page.get_by_role("link", name="Sign in with single sign-on").wait_for()
        page.context.close()
