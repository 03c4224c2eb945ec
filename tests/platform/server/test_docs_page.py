"""/docs shows every call without anything from another machine; what is not there is answered by name."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from tests.platform.gateway.house import House

from multiflora_platform.server.docs_page import render


class Loads(HTMLParser):
    """What a browser would fetch or run for the page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in ("script", "link", "img", "iframe") or "//" in (values.get("href") or ""):
            self.found.append(f"{tag} {values}")


async def test_the_page_has_every_call_and_loads_nothing(house: House) -> None:
    page = (await house.http.get("/docs", headers={"authorization": ""})).text
    parser = Loads()
    parser.feed(page)
    assert parser.found == []
    assert "@import" not in page
    assert "url(" not in page
    for path in (await house.http.get("/openapi.json")).json()["paths"]:
        assert f" {path}</h3>" in page
    for link in re.findall(r'href="#(\w+)"', page):
        assert f'id="{link}"' in page


def test_text_of_the_document_is_not_markup() -> None:
    call = {"description": "<script>x</script>", "parameters": [{"name": "<b>", "in": "query"}]}
    page = render({"info": {"title": "a<b", "version": "1"}, "paths": {"/<i>": {"get": call}}})
    assert "<script" not in page
    assert "<i>" not in page
    assert "a&lt;b" in page


async def test_an_unknown_path_and_a_wrong_method_are_named(house: House) -> None:
    for path in ("/nowhere", "/api/v1/nowhere"):
        response = await house.http.get(path)
        assert response.status_code == 404
        assert f"no {path};" in response.text
    response = await house.http.put("/v1/models")
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == "GET"
