"""Prefixes that come from behind the device before a start: who waits, who does not, and what becomes of failures."""

import pytest
from tests.engine.test_engine import Machine

from multiflora_adapters.kv_reach import BASE_KV
from multiflora_engine.cache.block_hashes import chain_of, prompt_hashes
from multiflora_engine.protocol.messages import CacheReply, CacheRequest

PROMPT = [1, 2, 3] * 9  # 27 tokens: 6 blocks of 4, and 3 tokens that are computed always


def evicted_machine(**sizes: int) -> Machine:
    """Of whose pool nothing is left of PROMPT, but copies are."""
    machine = Machine(tiers=True, **sizes)
    machine.tiers.fails = False
    machine.add(PROMPT, max_tokens=1)
    machine.run()
    machine.tiers.work(100)
    for tag in range(4, 10):
        machine.add([tag] * 32, max_tokens=1)
        machine.run()
    machine.tiers.work(100)
    return machine


def hashes_of(machine: Machine) -> list[bytes]:
    return prompt_hashes(machine.scheduler._cache._base_digest, BASE_KV, "", PROMPT, 4)


def ask(machine: Machine, chain: bytes) -> CacheReply:
    admin = machine.engine.cache_admin
    admin.submit(CacheRequest(1, "find", chain=chain))
    while not (replies := admin.advance()):
        pass
    return replies[0]


def test_what_was_evicted_is_loaded_instead_of_computed_and_counts_as_cached() -> None:
    machine = evicted_machine()
    computed, hits = machine.device.computed_tokens, machine.engine.stats().cache_hits
    request = machine.add(PROMPT, max_tokens=1)
    machine.run()
    assert machine.output(request) == machine.alone(request)
    assert machine.deltas[request, 0][0].cached_tokens == 24
    assert machine.deltas[request, 0][0].miss_reason == ""
    assert machine.device.computed_tokens - computed == 3
    assert machine.engine.stats().cache_hits - hits == 24
    machine.check_idle()


def test_a_load_knows_the_share_of_whose_it_is() -> None:
    machine = evicted_machine()
    machine.add(PROMPT, max_tokens=1, share=0.9)
    machine.step()
    (load,) = machine.tiers.loads
    assert load.share == 0.9
    machine.run()


def test_a_question_after_the_prefix_counts_what_can_be_loaded_and_does_not_call_it_evicted() -> None:
    machine = evicted_machine()
    found = ask(machine, chain_of(hashes_of(machine), len(PROMPT), 4))
    assert (found.found, found.reached, found.evicted) == (0, 6, False)
    machine.tiers.copies.clear()
    found = ask(machine, chain_of(hashes_of(machine), len(PROMPT), 4))
    assert (found.found, found.reached, found.evicted) == (0, 0, True)


def test_others_go_on_while_one_waits_for_its_prefix() -> None:
    machine = evicted_machine(num_blocks=24)
    machine.tiers.is_stuck = True
    waiting = machine.add(PROMPT, max_tokens=1)
    machine.step()
    other = machine.add([9] * 6, max_tokens=6, ignore_eos=True)
    for _ in range(6):
        machine.step()
    assert machine.last(other).finish_reason == "length"
    assert not machine.output(waiting)
    machine.tiers.is_stuck = False
    machine.run()
    assert machine.output(waiting) == machine.alone(waiting)


def test_a_disk_that_hangs_holds_nobody_up_for_ever() -> None:
    machine = evicted_machine(num_blocks=40)
    machine.tiers.is_stuck = True
    waiting = [machine.add(PROMPT, max_tokens=1) for _ in range(2)]
    for _ in range(3):
        machine.step()
    assert not any(map(machine.output, waiting))
    machine.clock.now += 6
    machine.run()
    later = machine.add([*PROMPT[:24], 7, 7], max_tokens=1)
    machine.run()
    for request in (*waiting, later):
        assert machine.output(request) == machine.alone(request)
    # Its blocks come back when it does.
    assert machine.engine.stats().free_blocks < 40
    machine.tiers.is_stuck = False
    machine.tiers.work(100)
    machine.step()
    machine.check_idle()


def test_requests_of_one_prefix_wait_for_one_load() -> None:
    machine = evicted_machine(num_blocks=40)
    before = machine.tiers.num_loaded
    requests = [machine.add([*PROMPT, tag], max_tokens=1, n=2) for tag in (1, 2)]
    machine.run()
    assert machine.tiers.num_loaded - before == 6
    for request in requests:
        assert machine.output(request, 1) == machine.alone(request, 1)
        assert machine.deltas[request, 0][0].cached_tokens == 24


def test_a_request_that_is_aborted_while_it_loads_gives_its_blocks_back() -> None:
    machine = evicted_machine()
    request = machine.add(PROMPT)
    machine.step()
    assert machine.scheduler._loads is not None
    assert machine.scheduler._loads.is_busy
    machine.engine.abort(request)
    assert machine.engine.has_work, "the step loop has to take the load in"
    machine.run()
    machine.check_idle()
    assert machine.tiers.num_loaded <= 3


def test_a_request_that_needs_what_a_load_holds_waits_and_does_not_fail() -> None:
    machine = evicted_machine(num_blocks=10)
    machine.tiers.is_stuck = True
    first = machine.add(PROMPT, max_tokens=1)
    machine.step()
    second = machine.add([5] * 36, max_tokens=1)
    for _ in range(5):
        machine.step()
    machine.tiers.is_stuck = False
    machine.run()
    for request in (first, second):
        assert machine.output(request) == machine.alone(request)
        assert not machine.failures(request)


def test_what_cannot_be_loaded_is_computed_and_not_tried_again() -> None:
    machine = evicted_machine()
    real = machine.tiers.load
    loads = []
    machine.tiers.load = lambda *asked: loads.append(asked) or real(*asked)  # type: ignore[func-returns-value,method-assign]
    machine.tiers.count_worth_loading = lambda hashes: 6 if len(hashes) == 6 else 0  # type: ignore[method-assign]
    del machine.tiers.copies[list(machine.tiers.copies)[2]]
    request = machine.add(PROMPT, max_tokens=1)
    machine.run()
    assert machine.output(request) == machine.alone(request)
    assert machine.deltas[request, 0][0].cached_tokens == 8
    assert len(loads) == 1


def test_who_wants_every_position_loads_nothing() -> None:
    machine = evicted_machine()
    before = machine.tiers.num_loaded
    request = machine.add(PROMPT, max_tokens=1, prompt_logprobs=0)
    machine.run()
    assert machine.deltas[request, 0][0].cached_tokens == 0
    assert machine.tiers.num_loaded == before


def test_a_long_prefix_is_published_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiflora_engine.scheduling.prefix_loads._PUBLISHED_PER_STEP", 2)
    machine = evicted_machine()
    request = machine.add(PROMPT, max_tokens=1)
    machine.step()
    machine.tiers.work(100)
    published = []
    while not machine.output(request):
        machine.step()
        published.append(ask(machine, chain_of(hashes_of(machine), len(PROMPT), 4)).found)
    assert machine.deltas[request, 0][0].cached_tokens == 24
    assert len(published) >= 3


def test_what_an_operator_drops_is_dropped_behind_the_device_too() -> None:
    machine = Machine(tiers=True)
    machine.add(PROMPT, max_tokens=1)
    machine.run()
    machine.tiers.work(100)
    assert len(machine.tiers.copies) == 6
    admin = machine.engine.cache_admin
    admin.submit(CacheRequest(1, "report"))
    while not (replies := admin.advance()):
        pass
    admin.submit(CacheRequest(2, "drop", replies[0].nodes[0].hash))
    while not admin.advance():
        pass
    assert not machine.tiers.copies
