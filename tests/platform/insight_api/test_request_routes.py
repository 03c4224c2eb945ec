"""The last requests as a tenant sees them: its own, and nothing of the engines behind them."""

from __future__ import annotations

from tests.platform.gateway.house import OTHER, TENANT, House

from multiflora_platform.insight.kept_bodies import KeptBodies

CHAT = "/v1/chat/completions"
ASKED = {"model": "base", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 3}


def of(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_a_tenant_sees_its_own_requests_alone(house: House) -> None:
    house.services.insight.bodies = KeptBodies()
    for headers in (of(TENANT), of(OTHER), {}):
        assert (await house.http.post(CHAT, json=ASKED, headers=headers)).status_code == 200
    everybody = (await house.http.get("/api/v1/requests")).json()["items"]
    mine = (await house.http.get("/api/v1/requests", headers=of(TENANT))).json()["items"]
    assert [one["tenant"] for one in mine] == ["acme"]
    assert [one["placement"] for one in mine] == [None]
    named = await house.http.get("/api/v1/requests?tenant=other", headers=of(TENANT))
    assert named.status_code == 403
    for one in everybody:
        status = (await house.http.get(f"/api/v1/requests/{one['id']}", headers=of(TENANT))).status_code
        assert (status == 200) == (one["tenant"] == "acme")
    shown = (await house.http.get(f"/api/v1/requests/{mine[0]['id']}", headers=of(TENANT))).json()
    assert (shown["body"], shown["placement"]) == (None, None), "texts that are kept are for administrators"
