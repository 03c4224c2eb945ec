"""Another language: chosen without loading again, kept, on every page, and as accessible and narrow as the first."""

from __future__ import annotations

from typing import Any

import pytest
from tests.e2e.browser.test_pages import AXE, serious
from tests.e2e.browser.window import Window
from tests.e2e.conftest import Server

pytestmark = [pytest.mark.browser, pytest.mark.slow]
# One of each kind: charts, a table that draws what one sees, a form, cards with placeholders in their sentences.
PAGES = {"/": "概览", "/adapters": "适配器", "/register": "注册适配器", "/slots": "槽位与内存"}


def test_the_language_changes_at_once_and_is_kept(make_window: Any, shop: Server) -> None:
    window = make_window(shop, bypass_csp=True, reduced_motion="reduce")
    window.sign_in(shop.key)
    page = window.open("/slots")
    page.evaluate("window.sameDocument = true")
    assert page.locator("html").get_attribute("lang") == "en-US"
    page.get_by_label("Language").select_option("zh")
    page.get_by_role("heading", name="槽位与内存", level=1).wait_for()
    assert page.evaluate("window.sameDocument")
    assert page.title() == "槽位与内存 · Multiflora"
    page.add_script_tag(content=AXE)
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 900})
        for path, title in PAGES.items():
            page.evaluate(
                "path => { history.pushState(null, '', `/ui${path}`); dispatchEvent(new PopStateEvent('popstate')); }",
                path,
            )
            page.get_by_role("heading", name=title, level=1).wait_for()
            window.settled()
            assert serious(window) == []
            assert not page.evaluate("document.documentElement.scrollWidth > innerWidth"), (path, width)
    page.reload()
    page.get_by_role("heading", name="槽位与内存", level=1).wait_for()
    assert page.locator("html").get_attribute("lang") == "zh-CN"


def test_a_form_keeps_its_text_and_a_table_its_rows_in_another_language(window: Window, shop: Server) -> None:
    page = window.open("/register")
    page.get_by_label("Adapter", exact=True).fill("half-written")
    page.get_by_label("Description").fill("Not to be lost")
    page.get_by_label("Language").select_option("zh")
    page.get_by_role("heading", name="注册适配器", level=1).wait_for()
    assert page.get_by_label("适配器", exact=True).input_value() == "half-written"
    assert page.get_by_label("描述").input_value() == "Not to be lost"
    page.get_by_role("link", name="适配器", exact=True).click()
    page.get_by_role("columnheader", name="名称").wait_for()
    page.get_by_label("语言").select_option("en")
    page.get_by_role("columnheader", name="Name").wait_for()
    page.get_by_text("on device").first.wait_for()
    assert page.get_by_text("在设备上").count() == 0
    page.get_by_role("link", name="Overview").click()
    page.get_by_role("region", name="Memory").get_by_text("gateway").wait_for()
    page.get_by_label("Language").select_option("zh")
    page.get_by_role("region", name="内存").get_by_text("网关").wait_for()


def test_the_first_choice_is_the_browsers(make_window: Any, shop: Server) -> None:
    """On the sign-in page, too, which offers the others."""
    page = make_window(shop, locale="zh-CN").page
    page.goto(f"{shop.url}/ui/")
    page.get_by_role("button", name="登录").click()
    page.get_by_text("请输入密钥").wait_for()
    page.get_by_label("语言").select_option("en")
    page.get_by_role("button", name="Sign in").wait_for()
    assert page.title() == "Sign in · Multiflora"


def test_values_in_sentences_may_be_elements_and_plurals_have_rules(window: Any) -> None:
    shown = window.page.evaluate(
        """async () => {
            const base = document.querySelector('meta[name="ui-base"]').content;
            const { plural, setLanguage, t } = await import(`${base}lib/language.js`);
            const { ago, count, percent, seconds } = await import(`${base}lib/format.js`);
            const all = () => [
                t`${3} of ${4}`, t`${"a"} to ${null}`, t`by ${{ type: "b" }}`, plural(1, "{0} row", "{0} rows", 1),
                plural(2, "{0} row", "{0} rows", 2), count(1234567), percent(0.5), seconds(90),
                ago(Date.now() / 1000 - 7300), t("no text of the UI"),
            ];
            const english = all();
            await setLanguage("zh");
            return [english, all()];
        }"""
    )
    element = {"type": "b"}
    assert shown == [
        [
            "3 of 4",
            "a to ",
            ["by ", element, ""],
            "1 row",
            "2 rows",
            "1.2M",
            "50%",
            "1 min 30 s",
            "2 h ago",
            "no text of the UI",
        ],
        [
            "4 中的 3",
            "a 至 ",
            ["由 ", element, ""],
            "1 行",
            "2 行",
            "123.5万",
            "50%",
            "1 分 30 秒",
            "2 小时前",
            "no text of the UI",
        ],
    ]
