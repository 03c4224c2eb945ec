"""Takes the documentation's pictures of the admin UI, in both themes, from a server that runs the bundled demo.

    make serve ARGS="--api-key KEY"                        in one terminal
    python docs/screenshots/take.py --key KEY              in another

Registers a second version, a tenant and some traffic first, so that there is something to see. Needs Debian's chromium.
"""

from __future__ import annotations

import argparse
import shutil
import threading
from pathlib import Path
from typing import Literal

import httpx
from playwright.sync_api import Browser, Page, sync_playwright

HERE = Path(__file__).parent
ADAPTERS = HERE.parents[1] / "examples/demo/adapters"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
PAGES = {
    "overview": "/",
    "adapters": "/adapters",
    "adapter": "/adapters/sql?tab=aliases",
    "playground": "/playground?model=sql&model=multiflora-demo",
    "cache": "/cache",
    "slots": "/slots",
    "requests": "/requests",
}
SHOP = "You answer questions about the shop. Its catalogue lists lamps, chairs and tables with their prices. " * 3


def prepare(client: httpx.Client) -> None:
    """Idempotent: what is there already stays."""
    files = [("files", (path.name, path.read_bytes())) for path in sorted((ADAPTERS / "extract").iterdir())]
    client.post("/api/v1/adapters/sql/versions", files=files)
    alias = client.get("/api/v1/adapters/sql/aliases/default").json()
    split = {"split": {"1": 90, "2": 10}}
    client.put("/api/v1/adapters/sql/aliases/default", json=split, headers={"If-Match": alias["etag"]})
    client.post("/api/v1/tenants", json={"name": "acme", "requests_per_minute": 600, "kv_share": 0.25})
    client.post("/api/v1/tenants", json={"name": "globex", "allowed_adapters": ["sql", "extract"], "priority": "low"})


def traffic(client: httpx.Client, stop: threading.Event) -> None:
    """Some requests of each adapter, a few prompts alike, until told to stop."""
    names = [item["id"] for item in client.get("/v1/models").json()["data"] if "@" not in item["id"]]
    number = 0
    while not stop.wait(0.15):
        model = names[number * number % len(names)]
        message = {"role": "user", "content": f"Show the name and price of product {number % 5}."}
        body = {
            "model": model,
            "max_tokens": 12 + number % 20,
            "messages": [{"role": "system", "content": SHOP}, message],
        }
        client.post("/v1/chat/completions", json=body)
        number += 1


def take(browser: Browser, url: str, key: str, theme: Literal["light", "dark"]) -> None:
    context = browser.new_context(
        viewport={"width": 1280, "height": 800}, color_scheme="dark" if theme == "dark" else "light"
    )
    page = context.new_page()
    page.goto(f"{url}/ui/")
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("navigation", name="Pages").wait_for()
    for name, path in PAGES.items():
        page.goto(f"{url}/ui{path}")
        page.locator("h1").wait_for()
        if name == "playground":
            _compare(page)
        page.wait_for_selector(".skeleton", state="detached")
        page.wait_for_timeout(1500)
        page.screenshot(path=HERE / f"{name}-{theme}.png")
    page.context.close()


def _compare(page: Page) -> None:
    page.get_by_label("Show the difference to the base").check()
    page.get_by_role("button", name="Run").click()
    page.get_by_text("at least twice as likely").nth(1).wait_for()


def main() -> None:
    parser = argparse.ArgumentParser(description="Takes the documentation's pictures of the admin UI.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", required=True, help="an administrator's key")
    parser.add_argument("--seconds", type=float, default=60, help="of traffic before the first picture")
    arguments = parser.parse_args()
    stop = threading.Event()
    headers = {"Authorization": f"Bearer {arguments.key}"}
    with httpx.Client(base_url=arguments.url, headers=headers, timeout=60) as client, sync_playwright() as playwright:
        prepare(client)
        threading.Thread(target=traffic, args=(client, stop), daemon=True).start()
        stop.wait(arguments.seconds)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        take(browser, arguments.url, arguments.key, "light")
        take(browser, arguments.url, arguments.key, "dark")
        browser.close()
        stop.set()


if __name__ == "__main__":
    main()
