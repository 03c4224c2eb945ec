"""What the admin UI costs a browser: bytes and time of each page's first load in both languages, and the work of a page
that is updated.

    python benchmarks/ui.py [--seconds 20]

Starts the bundled demo and Debian's chromium; everything runs on this machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import threading
import time
from typing import Any

import httpx
from playwright.sync_api import Browser, Page, sync_playwright

from gateway import KEY, demo

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
LOADS = 7
LANGUAGES = ("en", "zh")
PAGES = (
    *("/", "/adapters", "/adapters/sql", "/adapters/sql?tab=aliases", "/adapters/sql?tab=evals", "/register"),
    *("/playground", "/cache", "/contexts", "/slots", "/models", "/replicas", "/requests", "/tenants", "/batches"),
    *("/jobs", "/webhooks", "/audit", "/settings", "/docs"),
)
# Milliseconds in which a page asks for nothing any more.
QUIET = 1500


def sign_in(browser: Browser, url: str) -> Page:
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.goto(f"{url}/ui/")
    page.get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("navigation", name="Pages").wait_for()
    return page


def first_load(page: Page, url: str, path: str = "/adapters") -> tuple[float, float, int]:
    """Kilobytes of the UI's files as they travelled, heads included, milliseconds until the first paint, files; nothing
    is cached."""
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.send("Network.clearBrowserCache")
    addresses: dict[str, str] = {}
    sizes: dict[str, float] = {}
    session.on(
        "Network.responseReceived", lambda event: addresses.update({event["requestId"]: event["response"]["url"]})
    )
    session.on("Network.loadingFinished", lambda event: sizes.update({event["requestId"]: event["encodedDataLength"]}))
    page.goto("about:blank")
    sizes.clear()
    page.goto(f"{url}/ui{path}", wait_until="commit")
    page.get_by_role("heading", level=1).wait_for()
    page.wait_for_timeout(QUIET)
    took = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? performance.now()")
    files = [size for id, size in sizes.items() if "/ui/" in addresses.get(id, "")]
    session.detach()
    return sum(files) / 1000, took, len(files)


def every_page(page: Page, url: str) -> None:
    for language in LANGUAGES:
        page.evaluate("code => localStorage.setItem('multiflora-language', code)", language)
        for path in PAGES:
            weight, took, files = first_load(page, url, path)
            print(
                f"{language} {path:28} {weight:4.0f} kB in {files} files, painted after {took:.0f} ms; {load_average()}"
            )
    page.evaluate("localStorage.removeItem('multiflora-language')")


def load_average() -> str:
    """What else the machine does: times are to be read beside it."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def update_cost(page: Page, url: str, path: str, seconds: float) -> float:
    """Part of one CPU core that the page's own work takes while it is updated."""
    session = page.context.new_cdp_session(page)
    page.goto(f"{url}/ui{path}")
    page.locator("h1").wait_for()
    time.sleep(3)
    session.send("Performance.enable")
    before = _task_seconds(session)
    time.sleep(seconds)
    return (_task_seconds(session) - before) / seconds


def _task_seconds(session: Any) -> float:
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration"))


def traffic(url: str, stop: threading.Event) -> None:
    """Something for the charts to show."""
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as client:
        while not stop.wait(0.4):
            client.post("/v1/completions", json={"model": "sql", "prompt": "Show the names.", "max_tokens": 12})


def main() -> None:
    parser = argparse.ArgumentParser(description="What the admin UI costs a browser.")
    parser.add_argument("--seconds", type=float, default=20, help="how long each live page is watched")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        raise SystemExit("needs Debian's chromium: tests/install_system_packages.sh installs it as root")
    stop = threading.Event()
    with demo() as (_, url), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = sign_in(browser, url)
        loads = [first_load(page, url) for _ in range(LOADS)]
        print(f"first load: {statistics.median(load[0] for load in loads):.0f} kB in {loads[0][2]} files,", end=" ")
        print(f"{statistics.median(load[1] for load in loads):.0f} ms until it is painted (median of {LOADS})")
        every_page(page, url)
        threading.Thread(target=traffic, args=(url, stop), daemon=True).start()
        for path in ("/", "/adapters", "/requests"):
            print(
                f"{path:12} {100 * update_cost(page, url, path, arguments.seconds):.1f}% of a core while it is updated"
            )
        stop.set()
        browser.close()


if __name__ == "__main__":
    main()
