"""Why a replica got a request stays with the request, and /metrics tell how the choices do."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.platform.fleet.lines import DEAD, Line, a_request, fleet_of
from tests.platform.fleet.test_fleet import CHAT, behind, fakes
from tests.platform.gateway.conftest import make_house, tokenizer
from tests.platform.gateway.house import TENANT, House

from multiflora_engine.cache.block_hashes import prompt_hashes
from multiflora_engine.protocol.cache_change import CacheChange
from multiflora_engine.protocol.messages import CacheChanges
from multiflora_platform.engine import Placement
from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.routing import prompt_hashes_by
from multiflora_platform.insight.insight import Insight

__all__ = ["make_house", "tokenizer"]
DOCUMENT = Path(__file__).parents[3] / "docs" / "scaling.md"
ASKED = {"model": "base", "prompt": list(range(40)), "max_tokens": 2}


def routed(house: House, fleet: Fleet) -> None:
    behind(house, fleet)
    house.services.insight = Insight(house.services.groups)
    fleet._router.observer = house.services.metrics.of("base").router


async def rows(house: House) -> list[dict[str, Any]]:
    """Placements, the last request's first."""
    page = (await house.http.get("/api/v1/requests")).json()
    return [item["placement"] for item in page["items"]]


async def test_a_request_keeps_why_its_replica_was_chosen(make_house: Callable[..., House]) -> None:
    house = make_house()
    first, second = fakes(house)
    fleet = fleet_of(first, second, policy="score")
    fleet.look_up_by(prompt_hashes_by("b", house.registry.snapshot.kv_reach))
    routed(house, fleet)
    salt = house.services.keys.cache_salt(house.services.keys.authenticate("mf-admin"))
    hashes = prompt_hashes("b", house.registry.snapshot.kv_reach(None), salt, ASKED["prompt"], first.ready.block_size)
    second.cache_followers.begin()
    second.cache_followers.take(CacheChanges(1, [CacheChange(b"".join(hashes))]))
    async with house.http:
        answer = await house.post("/v1/completions", ASKED)
        assert answer.headers["x-multiflora-replica"] == "1"
        (row,) = await rows(house)
        assert (row["replica"], row["reason"], row["moves"]) == ("1", "cached", 0)
        assert 0 < row["cached_tokens"] < 40
        assert row["cached_tokens"] % first.ready.block_size == 0
        assert row["seconds"] < row["runner_up_seconds"]
        one = (await house.http.get("/api/v1/requests")).json()["items"][0]
        assert (await house.http.get(f"/api/v1/requests/{one['id']}")).json()["placement"] == row
        text = (await house.http.get("/metrics")).text
        # The fake engine says that half of the prompt was cached.
        of_one = 'model_name="base",replica="1"'
        assert f"multiflora_router_predicted_cached_tokens_total{{{of_one}}} {float(row['cached_tokens'])}" in text
        assert f"multiflora_router_cached_tokens_total{{{of_one}}} 20.0" in text
        error = float(abs(row["cached_tokens"] - 20))
        assert f"multiflora_router_cached_tokens_error_sum{{{of_one}}} {error}" in text
        assert 'multiflora_router_decision_seconds_count{model_name="base"} 1.0' in text
        assert 'multiflora_router_requests_total{model_name="base",reason="cached",replica="1"} 1.0' in text
        assert re.search(r'multiflora_replica_state_age_seconds\{model_name="base",replica="0"\} \d', text)
        tenants = await house.post("/v1/completions", ASKED, authorization=f"Bearer {TENANT}")
        assert (tenants.status_code, "x-multiflora-replica" in tenants.headers) == (200, False)


async def test_one_replica_is_the_only_one_and_nothing_is_measured(make_house: Callable[..., House]) -> None:
    house = make_house()
    async with house.http:
        await house.post("/v1/chat/completions", CHAT)
        assert await rows(house) == [
            {
                "replica": house.services.engine.replicas[0].id,
                "reason": "only",
                "cached_tokens": None,
                "seconds": None,
                "runner_up_seconds": None,
                "moves": 0,
            }
        ]
        text = (await house.http.get("/metrics")).text
    assert not [line for line in text.splitlines() if line.startswith("multiflora_router")]


async def test_the_document_names_the_families_that_there_are(make_house: Callable[..., House]) -> None:
    house = make_house()
    routed(house, fleet_of(*fakes(house)))
    async with house.http:
        await house.post("/v1/chat/completions", CHAT)
        text = (await house.http.get("/metrics")).text
    live = re.findall(r"^# TYPE (multiflora_(?:router|replica)_\w+) ", text, re.M)
    rows = [line for line in DOCUMENT.read_text().splitlines() if re.match(r"\| `multiflora_(router|replica)_", line)]
    named = [
        name if name.startswith("multiflora") else f"multiflora_replica{name}"
        for row in rows
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    ]
    assert sorted(named) == sorted(live)


def test_a_request_that_is_handed_on_says_so_with_its_cause() -> None:
    seen: list[tuple[str, str]] = []
    lines = [Line() for _ in range(3)]
    fleet = fleet_of(*lines)
    fleet._router.observer.moved = lambda replica, cause: seen.append((replica, cause))  # type: ignore[method-assign]
    stream = fleet.generate(a_request("r"))
    assert fleet.placement_of("r") == Placement("1", "turn")
    lines[1].dies()
    assert fleet.placement_of("r") == Placement("0", "turn", moves=1)
    lines[0].is_draining = True
    lines[0].disconnect(DEAD)
    assert fleet.placement_of("r") == Placement("2", "only", moves=2)
    assert seen == [("1", "engine_dead"), ("0", "drain")]
    assert not stream.has_failed


def test_the_least_loaded_is_idle_or_as_good_as_another() -> None:
    fleet = fleet_of(Line(), Line(), policy="least-loaded")
    kept = [fleet.generate(a_request(f"r{number}")) for number in range(3)]
    reasons = [place.reason for stream in kept if (place := fleet.placement_of(stream.request.id))]
    assert reasons == ["tie", "idle", "tie"]
