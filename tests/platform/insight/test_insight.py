"""What a prompt missed is put down to the engine that computed it, of several and after a death."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace

import pytest
from tests.platform.fleet.lines import Line, a_request, fleet_of

from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.gateway.schemas.requests import CompletionRequest
from multiflora_platform.insight import insight as insight_module
from multiflora_platform.insight.alerts.alerts import AlertChange
from multiflora_platform.insight.insight import Insight
from multiflora_platform.insight.logged_request import PromptFacts
from multiflora_platform.observability.observers import PromptStart
from multiflora_platform.web.openai_errors import ApiError

PROMPT = list(range(40))


class Asking:
    """Prompts by way of a fleet whose engines know nothing of what they are asked."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.base = SimpleNamespace(name="base", engine=fleet)
        self.insight = Insight([self.base])

    def send(self, id: str) -> None:
        request = a_request(id, PROMPT)
        self.stream = self.fleet.generate(request)
        facts = PromptFacts(id, 0.0, None, "base", None, 0, None, "/v1/completions", False, len(PROMPT))
        body = CompletionRequest(model="base", prompt="x")
        self.watches = self.insight.follow_prompt(facts, request, body, self.base)

    def starts(self, id: str) -> str:
        """The reason of its miss."""
        for watch in self.watches:
            watch.started(PromptStart(0, 0.0, 0.0, "first_seen"))
        entry = self.insight.requests.find(id)
        assert entry is not None
        return entry.miss_reason

    def ask(self, id: str) -> str:
        self.send(id)
        return self.starts(id)


async def test_a_restart_is_a_reason_for_what_the_restarted_engine_had_alone() -> None:
    fleet = fleet_of(Line(), Line())  # in turn: 1, 0, 1, …
    asking = Asking(fleet)
    assert asking.ask("one") == "first_seen"
    fleet.replicas[0].supervisor.restarts += 1
    assert asking.ask("zero, which restarted and never had it") == "other_replica"
    assert asking.ask("one, which has it and did not restart") == "first_seen"
    fleet.replicas[1].supervisor.restarts += 1
    assert asking.ask("zero, which has it by now") == "first_seen"
    assert asking.ask("one, which had it and restarted") == "engine_restarted"


def test_prompts_that_are_computed_together_share_the_time_of_the_device() -> None:
    """Each has waited for all four seconds of both; what a token took is of its part."""
    asking = Asking(fleet_of(Line()))
    for id in ("a", "b"):
        asking.send(id)
        for watch in asking.watches:
            watch.started(PromptStart(0, 0.0, 0.0, "evicted", evicted_tokens=len(PROMPT), device_seconds=2.0))
    savings = asking.insight.savings[""]
    (saving,) = savings.items()
    assert savings.seconds_per_token() == 4.0 / (2 * len(PROMPT))
    assert saving.seconds_again == pytest.approx(4.0), "all of what they took, and no more"


async def test_a_prompt_that_was_handed_on_is_of_the_engine_that_computed_it() -> None:
    lines = Line(), Line()
    fleet = fleet_of(*lines)
    asking = Asking(fleet)
    asking.ask("at one")
    asking.send("at zero")
    asking.starts("at zero")
    asking.send("at one, which dies")
    fleet.replicas[1].supervisor.restarts += 1
    lines[1].dies()
    lines[1].ready = None
    assert "at one, which dies" in [request.id for request in lines[0].requests]
    assert asking.starts("at one, which dies") == "first_seen"
    prompts = asking.insight.prompts.of(None)
    assert [prompt.life and (prompt.life.replica, prompt.life.epoch) for prompt in prompts] == [
        ("1", 0),
        ("0", 0),
        ("0", 0),
    ]


async def test_alerts_are_looked_for_each_second_until_the_server_goes() -> None:
    """An operator who looks at no page is told all the same; an engine that is stopped with its server alarms none."""
    fleet = fleet_of(Line(), Line())
    insight = Asking(fleet).insight
    told: asyncio.Queue[list[AlertChange]] = asyncio.Queue()
    insight.alerts.on_change = told.put_nowait
    fleet.replicas[1].supervisor.state = "restarting"
    insight.start()
    ((is_raised, alert, _),) = await asyncio.wait_for(told.get(), 30)
    assert (is_raised, alert.id) == (True, "engine 1")
    insight.stop()
    fleet.replicas[0].supervisor.state = "failed"
    points = insight.points()
    await asyncio.wait_for(anext(points), 30)
    await points.aclose()
    await insight.close()
    assert told.empty()


async def test_a_second_that_fails_ends_neither_the_series_nor_the_alerts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(insight_module, "_TICK", 0.01)
    fleet = fleet_of(Line())
    insight = Asking(fleet).insight
    told: asyncio.Queue[list[AlertChange]] = asyncio.Queue()

    def fail(changes: list[AlertChange]) -> None:
        raise ValueError("no room")

    insight.alerts.on_change = fail
    points = insight.points()
    with caplog.at_level(logging.ERROR):
        insight.start()
        for _ in range(3):
            await asyncio.wait_for(anext(points), 30)
        insight.alerts.on_change = told.put_nowait
        await asyncio.wait_for(told.get(), 30)
    await points.aclose()
    await insight.close()
    assert [record.exc_info[1].args for record in caplog.records if record.exc_info and record.exc_info[1]] == [
        ("no room",)
    ]


def test_a_load_failure_is_known_until_the_adapter_s_next_request_whatever_others_do() -> None:
    insight = Asking(fleet_of(Line())).insight
    insight.note_end("broken", ApiError(503, "adapter_unavailable", "its file is gone"))
    for number in range(5000):
        insight.note_end(f"well {number}", None)
    assert [alert.detail for alert in insight.look()] == ["its file is gone"]
    insight.note_end("broken", None)
    assert insight.look() == []
    for number in range(5000):
        insight.note_end(f"broken {number}", ApiError(503, "adapter_unavailable", "its file is gone"))
    assert len(insight.look()) == 4096
