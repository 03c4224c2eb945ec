"""Token buckets and concurrency: what is admitted, what is owed, and what the headers say."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiflora_platform.auth.limits.limits import duration
from multiflora_platform.auth.limits.memory import MemoryLimits
from multiflora_platform.auth.policies import Policy
from multiflora_platform.auth.principals import Principal
from multiflora_platform.web.refusals import LimitReached


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def limits(clock):
    return MemoryLimits(clock)


def principal(tenant_id=1, **policy):
    return Principal("tenant", f"t{tenant_id}", "k", tenant_id, policy=Policy(**policy))


async def test_requests_refill_evenly(limits, clock):
    who = principal(requests_per_minute=3)
    for _ in range(3):
        (await limits.admit(who)).close()
    with pytest.raises(LimitReached, match="3 requests per minute") as caught:
        await limits.admit(who)
    assert caught.value.retry_after == 20
    clock.now += 20
    (await limits.admit(who)).close()
    with pytest.raises(LimitReached):
        await limits.admit(who)
    (await limits.admit(principal(2, requests_per_minute=3))).close()


async def test_tokens_are_owed_when_an_answer_is_longer_than_what_was_left(limits, clock):
    who = principal(tokens_per_minute=60)
    claim = await limits.admit(who)
    await claim.prompt(50)
    claim.generated(40)
    with pytest.raises(LimitReached) as caught:
        await (await limits.admit(who)).prompt(10)
    assert caught.value.retry_after == 40
    clock.now += 40
    await (await limits.admit(who)).prompt(10)


async def test_a_prompt_that_never_fits_is_told_so(limits):
    with pytest.raises(LimitReached, match="Send a shorter one"):
        await (await limits.admit(principal(tokens_per_minute=60))).prompt(61)


async def test_concurrent_requests(limits):
    who = principal(max_concurrent_requests=2)
    first, _ = await limits.admit(who), await limits.admit(who)
    with pytest.raises(LimitReached, match="runs 2 requests"):
        await limits.admit(who)
    first.close()
    first.close()
    await limits.admit(who)
    with pytest.raises(LimitReached):
        await limits.admit(who)


async def test_a_refused_request_takes_nothing(limits):
    who = principal(requests_per_minute=5, max_concurrent_requests=1)
    await limits.admit(who)
    for _ in range(9):
        with pytest.raises(LimitReached):
            await limits.admit(who)
    assert limits.headers(who)["x-ratelimit-remaining-requests"] == "4"


async def test_headers_are_those_of_openai(limits, clock):
    who = principal(requests_per_minute=60, tokens_per_minute=6000)
    await (await limits.admit(who)).prompt(100)
    assert limits.headers(who) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5900",
        "x-ratelimit-reset-tokens": "1s",
    }
    assert limits.headers(principal(2)) == {}


async def test_a_changed_limit_counts_at_once(limits):
    await limits.admit(principal(requests_per_minute=100))
    for _ in range(2):
        await limits.admit(principal(requests_per_minute=2))
    with pytest.raises(LimitReached):
        await limits.admit(principal(requests_per_minute=2))
    await limits.admit(principal())


@pytest.mark.parametrize(("seconds", "text"), [(0, "0ms"), (0.0201, "21ms"), (1, "1s"), (59.2, "1m0s"), (360, "6m0s")])
def test_durations(seconds, text):
    assert duration(seconds) == text


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 40)), max_size=60))
def test_no_window_gets_more_than_the_allowance_and_one_overdraft(asked):
    asyncio.run(ask_all(asked))


async def ask_all(asked):
    """Admitted prompts of any history: at most the full bucket plus what refilled."""
    clock = Clock()
    limits, who, admitted = MemoryLimits(clock), principal(tokens_per_minute=60), 0
    for pause, count in asked:
        clock.now += pause
        try:
            await (await limits.admit(who)).prompt(count)
            admitted += count
        except LimitReached:
            pass
        assert admitted <= 60 + clock.now + 1e-6
