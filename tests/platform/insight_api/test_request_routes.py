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


async def test_one_request_explains_what_the_cache_had_of_it(house: House) -> None:
    """As it was then: against the closest prompt before it, whatever came later."""
    house.services.insight.bodies = KeptBodies()
    days = [
        f"Today is 2026-11-{day}. Answer in one short sentence, and never say more than you are asked."
        for day in (28, 29, 30)
    ]
    ids = []
    for day in days:
        messages = [{"role": "system", "content": day}, *ASKED["messages"]]
        ids.append((await house.http.post(CHAT, json={**ASKED, "messages": messages}, headers=of(TENANT))).json()["id"])
    for by in ({}, of(TENANT)):
        first, second = [(await house.http.get(f"/api/v1/requests/{id}/cache", headers=by)).json() for id in ids[:2]]
        assert (first["cause"], first["first_difference"]) == ("first_seen", None)
        assert (second["cause"], second["lost_tokens"] > 0) == ("timestamp", True)
        assert (second["first_difference"]["theirs"][0], second["first_difference"]["ours"][0]) == ("8", "9")
        # What it was made of is known where bodies are kept, to administrators.
        assert second["first_difference"]["role"] == (None if by else "system")
        shown = (await house.http.get(f"/api/v1/requests/{ids[1]}", headers=by)).json()
        assert (await house.http.get(f"/api/v1/requests/{shown['id']}/cache", headers=by)).json() == second
    for id, by in ((ids[0], of(OTHER)), ("chatcmpl-0", {}), ("x", {})):
        assert (await house.http.get(f"/api/v1/requests/{id}/cache", headers=by)).status_code == 404


async def test_lost_tokens_are_summed_by_cause(house: House) -> None:
    for day, reason in ((27, "first_seen"), (28, "diverged"), (29, "diverged")):
        house.engine.miss_reason = reason
        rules = f"Today is 2026-11-{day}. Answer in one short sentence, and never say more than you are asked."
        messages = [{"role": "system", "content": rules}, *ASKED["messages"]]
        await house.http.post(CHAT, json={**ASKED, "messages": messages}, headers=of(TENANT))
    page = (await house.http.get("/api/v1/cache/losses")).json()
    (one, other) = page["items"]
    newest = (await house.http.get("/api/v1/requests?limit=1")).json()["items"][0]["id"]
    assert (one["cause"], one["prompts"], one["request_id"]) == ("timestamp", 2, newest)
    assert (other["cause"], other["prompts"], other["lost_tokens"]) == ("first_seen", 1, 0)
    each = [(await house.http.get(f"/api/v1/requests/{one['request_id']}/cache")).json()["lost_tokens"]]
    assert one["lost_tokens"] == 2 * each[0] > 0
    assert (page["prompts"], page["unexplained"]) == (3, 0)
