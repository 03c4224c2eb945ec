"""The supervisor against a real process without a model: deaths, silence, restarts, and what its client sees."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from multiflora_engine.process import supervisor as supervision
from multiflora_engine.process.client import EngineClient, EngineUnavailable
from multiflora_engine.process.liveness import WorkMeter
from multiflora_engine.process.supervisor import EngineFailed, EngineSupervisor, Patience
from multiflora_engine.protocol.config import EngineConfig
from multiflora_engine.protocol.messages import LoadProgress
from multiflora_engine.protocol.requests import GenerateRequest, TokenDelta
from multiflora_engine.protocol.sampling_params import SamplingParams

FAKE = str(Path(__file__).with_name("fake_engine.py"))
DIE, FULL, BAD, CRASH, LONG, HANG = 9001, 9002, 9003, 9004, 9005, 9006
QUICK = Patience(silence=1.0, loading=20.0, backoff=0.05, start_attempts=2)


def _request(name: str, first: int = 1, max_tokens: int = 3, n: int = 1) -> GenerateRequest:
    return GenerateRequest(id=name, prompt_token_ids=[first, 10], params=SamplingParams(n=n, max_tokens=max_tokens))


@asynccontextmanager
async def _supervised(
    model: str = "fine", patience: Patience = QUICK, progress: list[LoadProgress] | None = None
) -> AsyncIterator[EngineSupervisor]:
    supervisor = EngineSupervisor(
        EngineConfig(model_path=model, artifact_root=""),
        patience=patience,
        on_progress=(progress if progress is not None else []).append,
        command=(sys.executable, FAKE),
    )
    await supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.stop()


async def _collect(client: EngineClient, request: GenerateRequest) -> list[TokenDelta]:
    return [delta async for delta in client.generate(request)]


async def _until(condition: Callable[[], Awaitable[bool]], limit: float = 60.0) -> None:
    deadline = time.monotonic() + limit
    while not await condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.01)


async def test_it_serves_streams_side_by_side_and_reports_its_loading() -> None:
    progress: list[LoadProgress] = []
    async with _supervised(progress=progress) as supervisor:
        ready = await supervisor.wait_ready()
        assert (supervisor.state, ready.num_blocks) == ("ready", 64)
        one, two = await asyncio.gather(
            _collect(supervisor.client, _request("one")), _collect(supervisor.client, _request("two", n=2))
        )
        assert [delta.token_ids for delta in one] == [[11], [12], [13]]
        assert sorted((delta.index, delta.token_ids[0]) for delta in two) == [
            (i, t) for i in (0, 1) for t in (11, 12, 13)
        ]
        assert [delta.finish_reason for delta in one] == [None, None, "length"]
        status = await supervisor.client.status()
        assert (status.pid, status.stats.running) == (supervisor.pid, 0)
        assert supervisor.client.in_flight == 0
    assert [(p.done, p.total) for p in progress] == [(1, 2), (2, 2)]
    assert supervisor.state == "stopped"


async def test_a_killed_engine_fails_its_streams_at_once_and_comes_back_with_its_pins() -> None:
    """Its silence would be noticed after ten minutes."""
    async with _supervised(patience=replace(QUICK, silence=600.0)) as supervisor:
        await supervisor.wait_ready()
        assert (await supervisor.client.adapter("pin", "digest")).error is None
        stream = supervisor.client.generate(_request("long", max_tokens=100_000, n=2))
        await anext(stream)
        pid = supervisor.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            rest = [delta async for delta in stream]
        last = {delta.index: delta for delta in rest}
        assert {delta.failure.code for delta in last.values() if delta.failure} == {"engine_dead"}
        assert [last[index].finish_reason for index in (0, 1)] == ["error", "error"]
        with pytest.raises(EngineUnavailable, match="not ready"):
            supervisor.client.generate(_request("too early"))
        await supervisor.wait_ready()
        assert (supervisor.restarts, supervisor.state) == (1, "ready")
        assert supervisor.pid != pid
        assert len(await _collect(supervisor.client, _request("again"))) == 3
        status = await supervisor.client.status()
        assert [(row.digest, row.pinned) for row in status.adapters] == [("digest", True)]


async def test_a_request_that_kills_the_engine_ends_with_a_typed_failure() -> None:
    async with _supervised() as supervisor:
        await supervisor.wait_ready()
        call = asyncio.create_task(supervisor.client.adapter("load", "digest"))
        await asyncio.sleep(0)
        (delta,) = await _collect(supervisor.client, _request("deadly", DIE))
        assert delta.failure is not None
        assert delta.failure.code == "engine_dead"
        with pytest.raises(EngineUnavailable) as caught:
            await call
        assert caught.value.code == "engine_dead"


async def test_a_step_that_raises_ends_the_engine_and_it_is_restarted() -> None:
    async with _supervised() as supervisor:
        await supervisor.wait_ready()
        (delta,) = await _collect(supervisor.client, _request("wrong", CRASH))
        assert delta.failure is not None
        assert delta.failure.code == "engine_dead"
        await supervisor.wait_ready()
        assert supervisor.restarts == 1


async def test_a_silent_engine_is_killed_and_replaced() -> None:
    async with _supervised() as supervisor:
        await supervisor.wait_ready()
        stream = supervisor.client.generate(_request("long", max_tokens=100_000))
        await anext(stream)
        pid = supervisor.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        failures = [delta.failure.code async for delta in stream if delta.failure]
        assert failures == ["engine_dead"]
        await supervisor.wait_ready()
        assert supervisor.pid != pid
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_step_that_waits_for_a_device_for_ever_is_noticed() -> None:
    async with _supervised() as supervisor:
        await supervisor.wait_ready()
        deltas = await _collect(supervisor.client, _request("hang", first=HANG))
        assert [delta.failure.code for delta in deltas if delta.failure] == ["engine_dead"]


async def test_a_long_step_is_not_taken_for_a_hang() -> None:
    async with _supervised() as supervisor:
        await supervisor.wait_ready()
        deltas = await _collect(supervisor.client, _request("long", first=LONG))
        assert [delta.failure for delta in deltas if delta.failure] == []
        assert (deltas[-1].finish_reason, supervisor.restarts) == ("length", 0)


async def test_an_engine_that_works_and_says_nothing_is_given_up_in_the_end() -> None:
    async with _supervised(patience=Patience(silence=1.0, silence_at_work=1.2, backoff=0.05)) as supervisor:
        await supervisor.wait_ready()
        deltas = await _collect(supervisor.client, _request("long", first=LONG))
        assert [delta.failure.code for delta in deltas if delta.failure] == ["engine_dead"]


def test_by_default_a_stopped_engine_is_noticed_within_ten_seconds() -> None:
    assert Patience().silence <= 9.0, "a tick and the restart's first answer come on top"


async def test_an_idle_engine_is_not_mistaken_for_a_silent_one() -> None:
    async with _supervised(patience=Patience(silence=4.0)) as supervisor:
        await supervisor.wait_ready()
        await asyncio.sleep(5.5)
        assert (supervisor.restarts, supervisor.state) == (0, "ready")


async def test_an_engine_that_speaks_in_time_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[float] = []

    class Recorder(WorkMeter):
        def look(self) -> float:
            measured.append(super().look())
            return measured[-1]

    monkeypatch.setattr(supervision, "WorkMeter", Recorder)
    async with _supervised(patience=Patience(silence=60.0)) as supervisor:
        await supervisor.wait_ready()
        measured.clear()
        first = supervisor.client.last_message
        await _until(lambda: _later(supervisor, first + 1.0))
        assert measured == []


async def _later(supervisor: EngineSupervisor, moment: float) -> bool:
    return supervisor.client.last_message > moment


async def test_a_configuration_error_is_final_and_keeps_its_message() -> None:
    async with _supervised("missing") as supervisor:
        with pytest.raises(EngineFailed, match="there is no model") as caught:
            await supervisor.wait_ready()
        assert (caught.value.kind, supervisor.state, supervisor.restarts) == ("configuration", "failed", 0)


async def test_an_engine_that_never_starts_is_given_up_after_some_attempts() -> None:
    async with _supervised("crash") as supervisor:
        with pytest.raises(EngineFailed, match="exit status 7") as caught:
            await supervisor.wait_ready()
        assert (caught.value.kind, supervisor.state, supervisor.restarts) == ("internal", "failed", 1)


async def test_an_engine_that_the_kernel_kills_says_what_to_make_smaller() -> None:
    async with _supervised("killed") as supervisor:
        with pytest.raises(EngineFailed, match=r"killed by SIGKILL, most likely .*want of memory.* smaller --kv-cache"):
            await supervisor.wait_ready()


async def test_a_start_that_fails_once_is_tried_again(tmp_path: Path) -> None:
    async with _supervised(f"flaky:{tmp_path / 'marker'}") as supervisor:
        await supervisor.wait_ready()
        assert (supervisor.restarts, supervisor.failure) == (1, None)


async def test_settings_that_have_served_are_tried_again_when_they_are_refused(tmp_path: Path) -> None:
    async with _supervised(f"short:{tmp_path / 'starts'}") as supervisor:
        await supervisor.wait_ready()
        assert supervisor.pid is not None
        stream = supervisor.client.generate(_request("ends with it"))
        os.kill(supervisor.pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            assert [delta async for delta in stream][-1].finish_reason == "error"
        await supervisor.wait_ready()
        assert (supervisor.restarts, supervisor.failure) == (2, None)


async def test_loading_may_be_silent_for_longer_but_not_forever() -> None:
    patience = Patience(silence=0.1, loading=1.0, start_attempts=1)
    async with _supervised("mute", patience) as supervisor:
        with pytest.raises(EngineFailed, match="no sign of life for 1 s"):
            await supervisor.wait_ready()


@pytest.mark.parametrize("way", ["close", "cancel", "drop"])
async def test_leaving_a_stream_aborts_its_request(way: str) -> None:
    async with _supervised() as supervisor:
        await supervisor.wait_ready()
        client = supervisor.client

        async def running() -> int:
            return (await client.status()).stats.running

        async def consume() -> None:
            async for _ in client.generate(_request("long", max_tokens=100_000)):
                pass

        if way == "cancel":
            task = asyncio.create_task(consume())
        else:
            stream = client.generate(_request("long", max_tokens=100_000))
            await anext(stream)
        await _until(lambda: _equals(running, 1))
        if way == "cancel":
            task.cancel()
        elif way == "close":
            await stream.aclose()
            assert [delta async for delta in stream] == []
        else:
            del stream
            gc.collect()
        await _until(lambda: _equals(running, 0))
        assert client.in_flight == 0


async def _equals(value: Callable[[], Awaitable[int]], wanted: int) -> bool:
    return await value() == wanted


@pytest.mark.parametrize(("first", "code"), [(FULL, "server_overloaded"), (BAD, "invalid_request")])
async def test_a_refused_request_ends_every_sequence_with_the_cause(first: int, code: str) -> None:
    async with _supervised() as supervisor:
        await supervisor.wait_ready()
        deltas = await _collect(supervisor.client, _request("refused", first, n=2))
        assert [(delta.index, delta.finish_reason) for delta in deltas] == [(0, "error"), (1, "error")]
        assert {delta.failure.code for delta in deltas if delta.failure} == {code}


async def test_adapter_commands_are_answered_when_done_and_fail_alone() -> None:
    async with _supervised() as supervisor:
        await supervisor.wait_ready()
        client = supervisor.client
        stream = client.generate(_request("beside", max_tokens=20))
        probe, broken, odd = await asyncio.gather(
            client.adapter("probe", "digest"), client.adapter("load", "broken"), client.adapter("paint", "digest")
        )
        assert (probe.error, probe.logit_distance) == (None, 1.5)
        assert (broken.error, odd.error) == ("its file is gone", "unknown action 'paint'")
        assert (await client.adapter("pin", "digest")).error is None
        assert client.pinned == {"digest"}
        assert (await client.adapter("unload", "digest")).error is None
        assert client.pinned == set()
        assert len([delta async for delta in stream]) == 20


async def test_stopping_ends_the_process_the_streams_and_the_socket() -> None:
    async with _supervised() as supervisor:
        await supervisor.wait_ready()
        pid = supervisor.pid
        assert pid is not None
        stream = supervisor.client.generate(_request("long", max_tokens=100_000))
        await anext(stream)
        await supervisor.stop()
        assert [delta.failure.code async for delta in stream if delta.failure] == ["engine_dead"]
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        with pytest.raises(EngineUnavailable):
            await supervisor.client.status()


async def test_what_was_stopped_can_be_started_again() -> None:
    async with _supervised() as supervisor:
        await supervisor.wait_ready()
        first = supervisor.pid
        await supervisor.stop()
        await supervisor.start()
        assert supervisor.state == "starting"
        await supervisor.wait_ready()
        assert supervisor.pid != first
        assert supervisor.restarts == 0
        assert len(await _collect(supervisor.client, _request("again"))) > 0


@pytest.mark.parametrize("chosen", [{}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
async def test_the_engine_spins_shortly_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str]
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    async with _supervised() as supervisor:
        await supervisor.wait_ready()
        assert supervisor.pid is not None
        environment = psutil.Process(supervisor.pid).environ()
    found = {name: environment[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in environment}
    assert found == (chosen or {"GOMP_SPINCOUNT": "1000"})


def test_the_client_side_needs_no_torch() -> None:
    modules = "multiflora_engine.process.supervisor, multiflora_engine.process.main"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
