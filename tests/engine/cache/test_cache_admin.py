"""What operators see of the prefix cache, what they can do to it, and what a miss is put down to."""

from __future__ import annotations

from typing import Any

import pytest
from tests.engine.cache.house import BLOCK, SHARED, House, two_prompts

from multiflora_adapters.kv_reach import BASE_KV
from multiflora_engine.cache.block_hashes import chain_of, prompt_hashes
from multiflora_engine.protocol.messages import CacheRequest
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams


def test_prompts_that_share_a_beginning_are_a_tree() -> None:
    house = House()
    two_prompts(house)
    nodes = house.nodes()
    assert {tokens: (node.blocks, node.hits, node.owner) for tokens, node in nodes.items()} == {
        12: (3, 1, "t"),
        8: (2, 0, "t"),
        4: (1, 0, "t"),
    }
    assert nodes[12].parent is None
    assert nodes[8].parent == nodes[4].parent == nodes[12].hash
    assert (nodes[12].age_seconds, nodes[12].idle_seconds) == (2, 1)
    assert not any(node.pinned or node.referenced for node in nodes.values())
    assert house.ask("tokens", nodes[8].hash).token_ids == list(range(30, 38))


def test_a_dropped_run_takes_what_follows_along() -> None:
    house = House()
    two_prompts(house)
    house.ask("pin", house.nodes()[8].hash)
    assert house.ask("drop", house.nodes()[12].hash).error is None
    assert not house.nodes()
    assert house.scheduler.pool.num_free == 32
    assert house.prompt([*SHARED, 1]).cached_tokens == 0


def test_what_is_pinned_survives_a_flood() -> None:
    house = House(num_blocks=16)
    two_prompts(house)
    assert house.ask("pin", house.nodes()[8].hash).error is None
    assert house.nodes()[8].pinned
    for number in range(8):
        house.prompt([1000 * number + i for i in range(30)], cache_owner="t")
    assert house.prompt([*SHARED, *range(30, 39)], cache_owner="t").cached_tokens == 20
    assert house.prompt([*SHARED, *range(50, 55)], cache_owner="t").miss_reason == "evicted"
    assert house.ask("unpin", next(node.hash for node in house.ask("report").nodes if node.pinned)).error is None
    for number in range(20, 28):
        house.prompt([1000 * number + i for i in range(30)], cache_owner="t")
    assert house.prompt([*SHARED, 1], cache_owner="t").cached_tokens == 0


def test_a_request_for_which_pins_leave_no_room_fails_and_holds_up_nobody() -> None:
    house = House(num_blocks=16)
    two_prompts(house)
    assert house.ask("pin", house.nodes()[8].hash).error is None
    assert house.add("long", list(range(100, 150))).finish_reason == "error"
    assert house.prompt(list(range(200, 240))).finish_reason == "length", "ten blocks are left"


def test_a_tenant_whose_share_is_pinned_is_told_so() -> None:
    house = House()
    two_prompts(house)
    assert house.ask("pin", house.nodes()[8].hash).error is None
    refused = house.add("long", list(range(100, 120)), cache_owner="t", cache_share=0.25)
    assert refused.failure is not None
    assert (refused.failure.code, "unpin" in refused.failure.message) == ("kv_cache_pinned", True)
    assert house.prompt(list(range(200, 208)), cache_owner="t", cache_share=0.25).finish_reason == "length"


def test_pins_leave_half_of_the_cache() -> None:
    house = House(num_blocks=8)
    house.prompt(list(range(21)))
    error = house.ask("pin", house.nodes()[20].hash).error
    assert error is not None
    assert "half" in error
    assert house.scheduler.pool.num_free == 8


def test_what_is_gone_says_so() -> None:
    house = House()
    for action in ("tokens", "drop"):
        assert house.ask(action, "00" * 32).error == "That prefix is not cached any more."
    assert house.ask("pin", "00" * 32).error == "That prefix is not cached any more."
    assert house.ask("unpin", "00" * 32).error is None


def test_why_a_prompt_missed() -> None:
    house = House()
    assert house.prompt(SHARED[:3]).miss_reason == "", "nothing whole to find"
    assert house.prompt([*SHARED, 1], cache_owner="t", cache_salt="t").miss_reason == "first_seen"
    assert house.prompt([*SHARED, 1], cache_owner="t", cache_salt="t").miss_reason == ""
    assert house.prompt([*SHARED[:8], 1, 2, 3, 4, 5], cache_owner="t", cache_salt="t").miss_reason == "diverged"
    assert house.prompt([*SHARED, 1], cache_owner="u", cache_salt="u").miss_reason == "other_tenant"
    assert house.prompt([*SHARED, 1], cache_owner="t", cache_salt="narrow").miss_reason == "other_salt"
    other = house.prompt([*SHARED, 1], cache_owner="t", cache_salt="t", adapter_digest="d")
    assert other.miss_reason == "other_adapter"


@pytest.mark.parametrize("asked", [{"params": SamplingParams(max_tokens=1, prompt_logprobs=0)}, {"pooling": "mean"}])
def test_what_wants_the_whole_prompt_is_told_so_and_not_that_others_differ(asked: dict[str, Any]) -> None:
    house = House()
    house.prompt([*SHARED, 1], cache_owner="t", cache_salt="t")
    params = asked.pop("params", SamplingParams(max_tokens=1))
    request = GenerateRequest(
        id="whole", prompt_token_ids=[*SHARED, 1], params=params, cache_owner="t", cache_salt="t", **asked
    )
    house.scheduler.add(request)
    (entry,) = house.scheduler.schedule().entries
    assert (entry.start, entry.sequence.miss_reason) == (0, "whole_prompt_asked")


def test_how_far_a_prompt_is_cached_and_whether_the_rest_was_evicted() -> None:
    house = House(num_blocks=8)
    house.prompt([*SHARED, *range(30, 39)])

    def find(ids: list[int], salt: str = "") -> tuple[int, bool]:
        hashes = prompt_hashes("base", BASE_KV, salt, ids, BLOCK)
        house.control.submit(CacheRequest(7, "find", chain=chain_of(hashes, len(ids), BLOCK)))
        (reply,) = house.control.advance()
        return reply.found, reply.evicted

    assert find([*SHARED, *range(30, 39)]) == (5, False)
    # The last token is always computed, so a block that holds it is none that can be found.
    assert find(SHARED) == (2, False)
    assert find([*SHARED, *range(50, 55)]) == (3, False)
    assert find([*SHARED, 1], salt="other") == (0, False)
    house.prompt(list(range(60, 91)))
    assert find([*SHARED, *range(30, 39)])[1]


def test_what_several_hold_stays_until_the_last_lets_go() -> None:
    house = House()
    two_prompts(house)
    hash = house.nodes()[8].hash
    for holder in ("one", "two", "one"):
        assert house.ask("hold", hash, holder=holder).error is None
    house.ask("release", hash, holder="one")
    house.ask("release", hash, holder="a stranger")
    assert house.nodes()[8].pinned
    house.ask("release", hash, holder="two")
    assert not house.nodes()[8].pinned


def test_a_holder_that_is_gone_holds_nothing_and_the_others_go_on() -> None:
    house = House()
    two_prompts(house)
    alone, shared, steered = house.nodes()[8].hash, house.nodes()[12].hash, house.nodes()[4].hash
    house.ask("hold", alone, holder="one")
    for holder in ("one", "two"):
        house.ask("hold", shared, holder=holder)
    house.ask("hold", steered, holder="one")
    house.ask("pin", steered)
    house.control.abandon("one")
    while house.control.has_work:
        assert house.control.advance() == []
    assert {node.hash for node in house.nodes().values() if node.pinned} == {shared, steered}
    house.ask("unpin", shared)
    house.ask("hold", shared, holder="three")
    house.ask("release", shared, holder="three")
    assert {node.hash for node in house.nodes().values() if node.pinned} == {steered}, "an operator lets go for all"
