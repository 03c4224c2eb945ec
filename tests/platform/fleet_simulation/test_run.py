"""Simulated fleets: times that can be computed by hand, hits as the block pool's, and policies in their order."""

from __future__ import annotations

import random
from itertools import count

import pytest

from multiflora_engine.protocol.traced_request import TracedRequest
from multiflora_engine.simulation.replay import POLICIES as EVICTION
from multiflora_engine.simulation.replay import replay
from multiflora_engine.simulation.workloads import conversations
from multiflora_platform.fleet.scaling import Targets
from multiflora_platform.fleet_simulation.policies import POLICIES
from multiflora_platform.fleet_simulation.run import Outcome, Plan, simulate
from multiflora_platform.fleet_simulation.simulated_engine import Costs, EngineShape

COSTS = Costs(step=0.01, prompt=0.001, answer=0.002, adapter_from_host=0.1, adapter_from_disk=0.5, start=20.0)
SHAPE = EngineShape(num_blocks=100, max_num_seqs=4, max_num_batched_tokens=64, lora_slots=1)


def request(
    first: int, blocks: int = 2, at: float = 0.0, output: int = 1, adapter: int = 0, prompt: int = 0
) -> TracedRequest:
    """Of blocks that are numbered from the first on, and one token more."""
    names = [f"{first + number:016x}" for number in range(blocks)]
    return TracedRequest(
        names, blocks, at=at, prompt_tokens=prompt or 16 * blocks + 1, output_tokens=output, adapter=adapter
    )


def run(*trace: TracedRequest, replicas: int = 1, policy: str = "score", shape: EngineShape = SHAPE) -> Outcome:
    return simulate(trace, Plan(replicas, shape, COSTS, policy))


def test_a_step_takes_what_is_in_it() -> None:
    assert run(request(0)).first_seconds == pytest.approx([0.01 + 0.033])


def test_what_is_cached_is_not_computed() -> None:
    outcome = run(request(0, at=5.0), request(0, at=6.0))
    assert outcome.first_seconds == pytest.approx([0.043, 0.011])
    assert outcome.cached_share == pytest.approx(32 / 66)


def test_a_long_prompt_comes_in_chunks_beside_an_answer() -> None:
    """The answer takes one of 64 tokens: 63 and 18 of 81 are left for the prompt in two steps."""
    outcome = run(request(0, output=100), request(50, blocks=5, at=0.5))
    # A step with the answer alone takes 0.012: the prompt waits for the end of the one that runs, from 0.499 to 0.511.
    first = 0.043 + 39 * 0.012 - 0.5
    assert outcome.first_seconds[1] == pytest.approx(first + 2 * 0.012 + 0.081)


def test_twins_are_computed_once() -> None:
    outcome = run(request(0, blocks=6), request(0, blocks=6))
    assert outcome.cached_tokens == 96
    assert outcome.first_seconds == pytest.approx([0.117, 0.117 + 0.011])


def test_an_adapter_comes_from_disk_then_from_the_host_and_waits_for_a_slot() -> None:
    far = [request(0, adapter=1, at=0), request(9, adapter=2, at=10), request(19, adapter=1, at=20)]
    assert run(*far).first_seconds == pytest.approx([0.543, 0.543, 0.143])
    together = run(request(0, adapter=1, output=11), request(9, adapter=2))
    assert together.first_seconds == pytest.approx([0.543, 0.543 + 10 * 0.012 + 0.543])


def test_blocks_and_seats_are_waited_for() -> None:
    small = EngineShape(num_blocks=7, max_num_seqs=4, max_num_batched_tokens=512)
    outcome = run(request(0, blocks=5), request(10, blocks=5), shape=small)
    assert outcome.first_seconds == pytest.approx([0.091, 0.182])
    one = EngineShape(num_blocks=70, max_num_seqs=1, max_num_batched_tokens=512)
    assert run(request(0), request(10), shape=one).first_seconds == pytest.approx([0.043, 0.086])


def test_what_is_larger_than_the_cache_is_skipped_and_the_rest_answered() -> None:
    outcome = run(request(0, blocks=100), request(200))
    assert (outcome.skipped, len(outcome.first_seconds)) == (1, 1)


@pytest.mark.parametrize("policy", POLICIES)
def test_far_apart_one_replica_finds_what_its_pool_does(policy: str) -> None:
    requests = conversations(120, active=8)
    far = [
        TracedRequest(
            one.blocks,
            one.prompt_blocks,
            at=60.0 * number,
            output_tokens=16 * (len(one.blocks) - one.prompt_blocks) - 1,
        )
        for number, one in enumerate(requests)
    ]
    outcome = simulate(far, Plan(1, EngineShape(num_blocks=150), COSTS, policy))
    fitting = [one for one in requests if len(one.blocks) <= 150]
    assert outcome.cached_tokens == 16 * replay(fitting, 150, EVICTION["worth"]).found > 0


def zipf(replicas: int, seconds: float = 60.0, rate: float = 6.0, contexts: int = 9) -> list[TracedRequest]:
    """Contexts of 512 tokens and a question, some of each and so many a second for each replica."""
    rng, number = random.Random(1), count()
    made = [[f"{next(number):016x}" for _ in range(32)] for _ in range(contexts * replicas)]
    weights = [1 / (rank + 1) for rank in range(len(made))]
    trace = []
    for turn in range(int(seconds * rate * replicas)):
        (chosen,) = rng.choices(range(len(made)), weights)
        blocks = [*made[chosen], *(f"{next(number):016x}" for _ in range(3))]
        at = turn / (rate * replicas)
        trace.append(TracedRequest(blocks, 35, at=at, prompt_tokens=561, output_tokens=8, adapter=chosen % 6))
    return trace


def test_routing_by_score_finds_more_than_turns_and_waits_less_than_hashing() -> None:
    plans = {policy: Plan(4, EngineShape(260), policy=policy) for policy in POLICIES}
    outcomes = {policy: simulate(zipf(4, 15.0), plan) for policy, plan in plans.items()}
    assert {len(outcome.first_seconds) for outcome in outcomes.values()} == {360}
    score = outcomes["score"]
    assert score.cached_share > 1.3 * outcomes["round-robin"].cached_share
    assert score.mean <= 1.05 * min(outcome.mean for outcome in outcomes.values())
    assert score.percentile(99) < 0.8 * outcomes["prefix-hash"].percentile(99)
    assert simulate(zipf(4, 15.0), plans["score"]) == score, "the same again"


def test_a_rush_starts_replicas_that_end_after_it() -> None:
    calm = [request(10 * number, at=5.0 * number) for number in range(80)]
    rush = [request(10_000 + 10 * number, at=100 + number / 10, output=80) for number in range(500)]
    shape = EngineShape(260, max_num_seqs=8, max_num_batched_tokens=64)
    targets = Targets(queue_seconds=0.5, down_after=60)
    scaled = simulate([*calm, *rush], Plan(4, shape, COSTS, least=1, targets=targets))
    always = simulate([*calm, *rush], Plan(4, shape, COSTS))
    alone = simulate([*calm, *rush], Plan(1, shape, COSTS))
    assert len(scaled.first_seconds) == len(always.first_seconds) == 580
    assert 1 < scaled.most_replicas <= 4
    assert scaled.replica_seconds < 0.7 * always.replica_seconds
    assert scaled.mean < 0.7 * alone.mean


def test_prompts_that_wait_do_not_wait_for_the_replica_that_they_were_given() -> None:
    """Eight prompts of a second each come to one replica; another one is there after two seconds."""
    targets = Targets(up_after=0.0)
    long = [request(1000 * number, blocks=62, at=0.0) for number in range(8)]
    costs = Costs(step=0.0, prompt=0.001, answer=0.0, start=1.0)
    plan = Plan(2, EngineShape(600, max_num_seqs=1), costs, "least-loaded", least=1, targets=targets)
    assert simulate(long, plan).first_seconds == pytest.approx(
        [0.993, 1.986, 2.979, 2.993, 3.972, 3.986, 4.965, 4.979], abs=1e-3
    )
