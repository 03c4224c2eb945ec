"""Clients of other servers are told which call of ours is theirs, and it exists."""

from __future__ import annotations

import re

from tests.platform.gateway.house import House

from multiflora_platform.web.foreign_routes import _INSTEAD

CALL = re.compile(r"(GET|POST) (/[\w/.{}:-]*\w}?|/[\w/]+)|(?:,| and) (/[\w/]+)")


async def test_each_is_a_404_that_names_a_call_that_is_there(house: House) -> None:
    paths = {re.sub(r":path}", "}", path) for path in (await house.http.get("/openapi.json")).json()["paths"]}
    for foreign, instead in _INSTEAD.items():
        told = [mentioned or further for _, mentioned, further in CALL.findall(instead)]
        assert told, instead
        assert set(told) <= paths | {"/metrics"}, instead
        for response in (await house.post(foreign, {"inputs": "a"}), await house.http.get(f"{foreign}/")):
            body = response.json()
            said = body["detail"] if foreign.startswith("/api") else body["error"]["message"]
            assert response.status_code == 404
            assert said == f"There is no {response.request.url.path}; call {instead}."


async def test_any_other_path_is_led_to_the_list(house: House) -> None:
    response = await house.http.get("/nothing")
    assert response.status_code == 404
    assert response.json()["error"]["message"] == "There is no /nothing; GET /docs lists every call."
