"""GET /api/v1/cache/drift over HTTP: the place in the conversation, who sees what, and the alert."""

from __future__ import annotations

from typing import Any

from tests.platform.gateway.house import TENANT, House

CHAT = "/v1/chat/completions"
# The scripted engine has half of each prompt cached.
GUIDE = "You answer in two sentences and never guess; ask for the number first. Today is "
RULE = "Be kind, be brief, and say so where you are not sure."


async def ask(house: House, number: int, **headers: str) -> None:
    system = f"{GUIDE}2026-11-30T09:{number:02}:00Z. {RULE}"
    body = {
        "model": "sql",
        "max_tokens": 1,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": f"Who is {number}?"}],
    }
    assert (await house.http.post(CHAT, json=body, headers=headers)).status_code == 200


async def drift(house: House, **headers: str) -> list[dict[str, Any]]:
    answer = await house.http.get("/api/v1/cache/drift", headers=headers)
    assert answer.status_code == 200
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def test_a_date_in_the_system_prompt_is_found_where_it_stands_and_raises_an_alert(house: House) -> None:
    for number in range(24):
        await ask(house, number + 10)
    (item,) = await drift(house)
    assert (item["kind"], item["message"], item["role"], item["position"]) == (
        "timestamp",
        0,
        "system",
        len(GUIDE),
    )
    assert (item["tenant"], item["model"], item["prompts"], item["share"]) == (None, "sql", 23, 23 / 24)
    assert "2026-11-30T09:" in item["example"]
    alerts = (await house.http.get("/api/v1/alerts")).json()["items"]
    (alert,) = [alert for alert in alerts if alert["id"].startswith("drift")]
    assert (alert["detail"], alert["link"]) == (item["advice"], "/ui/cache")


async def test_a_tenant_sees_its_own_alone(house: House) -> None:
    tenant = {"Authorization": f"Bearer {TENANT}"}
    for number in range(8):
        await ask(house, number + 10)
    assert await drift(house, **tenant) == []
    for number in range(8):
        await ask(house, number + 30, **tenant)
    (own,) = await drift(house, **tenant)
    assert own["tenant"] is not None
    assert len(await drift(house)) == 2
