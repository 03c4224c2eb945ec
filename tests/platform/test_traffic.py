"""Requests are waited for; what outlasts that is told why it ends, and then waited for once more."""

from __future__ import annotations

import asyncio

import pytest

from multiflora_platform import traffic
from multiflora_platform.traffic import Traffic
from multiflora_platform.web.openai_errors import ApiError, unavailable


class Prompt:
    """A request with one prompt, over one step of the loop after it was failed."""

    adapter = None
    has_started = True

    def __init__(self, traffic: Traffic, *, listens: bool = True) -> None:
        self.failure: ApiError | None = None
        self.listens = listens
        self._traffic = traffic
        traffic.request_began()
        traffic.active.add(self)

    def fail(self, error: ApiError) -> None:
        self.failure = error
        if self.listens:
            asyncio.get_running_loop().call_soon(self.end)

    def end(self) -> None:
        self._traffic.active.discard(self)
        self._traffic.request_ended()


def gone() -> ApiError:
    return unavailable("It is gone.")


async def test_what_ends_in_time_is_not_cut_off() -> None:
    served = Traffic()
    assert await served.run_out(0.0, gone) == 0
    prompts = [Prompt(served) for _ in range(3)]
    ending = asyncio.create_task(served.run_out(60.0, gone))
    for prompt in prompts:
        await asyncio.sleep(0)
        assert not ending.done()
        prompt.end()
    assert await ending == 0
    assert [prompt.failure for prompt in prompts] == [None] * 3


async def test_past_the_patience_each_is_told_with_an_error_of_its_own_and_waited_for() -> None:
    served = Traffic()
    prompts = [Prompt(served) for _ in range(2)]
    assert await served.run_out(0.0, gone) == 2
    assert served.in_flight == 0
    failures = [prompt.failure for prompt in prompts]
    assert [failure and failure.message for failure in failures] == ["It is gone."] * 2
    assert failures[0] is not failures[1]


async def test_one_that_never_ends_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "_LAST_WORDS", 0.01)
    served = Traffic()
    Prompt(served, listens=False)
    assert await served.run_out(0.0, gone) == 1
    assert served.in_flight == 1
    assert not await served.wait_idle(0.0)
