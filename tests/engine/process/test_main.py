"""The engine process itself, over its bare socket: what it survives, when it leaves, what it costs when idle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec
import psutil
import pytest
import zmq

from multiflora_engine.protocol.config import EngineConfig
from multiflora_engine.protocol.lines import EngineStart
from multiflora_engine.protocol.messages import (
    PROTOCOL,
    AdapterCommand,
    AdapterResult,
    Deltas,
    Draining,
    Fatal,
    FromEngine,
    Generate,
    Heartbeat,
    Hello,
    LoadProgress,
    Shutdown,
    Status,
    StatusRequest,
    ToEngine,
    Welcome,
)
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams

FAKE = str(Path(__file__).with_name("fake_engine.py"))
PARENT = "import subprocess, sys, time; p = subprocess.Popen(sys.argv[1:]); print(p.pid, flush=True); time.sleep(60)"


class Peer:
    """The starter of a process, and its line to it."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "s")
        self._context = zmq.Context(1)
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.connect(f"ipc://{self.path}")
        self.process: subprocess.Popen[bytes] | None = None

    def spawn(self, model: str = "fine") -> subprocess.Popen[bytes]:
        with self.start(model) as start:
            self.process = subprocess.Popen([sys.executable, FAKE], stdin=start)
        self.send(Hello(PROTOCOL))
        return self.process

    @contextmanager
    def start(self, model: str = "fine") -> Iterator[IO[bytes]]:
        """What the process reads."""
        with tempfile.TemporaryFile() as file:
            config = EngineConfig(model_path=model, artifact_root="")
            file.write(msgspec.msgpack.encode(EngineStart(config, self.path)))
            file.seek(0)
            yield file

    def send(self, message: ToEngine) -> None:
        self.send_bytes(msgspec.msgpack.encode(message))

    def send_bytes(self, frame: bytes) -> None:
        self._socket.send(frame)

    def expect(self, kind: type[Any] | tuple[type[Any], ...], seconds: float = 60.0) -> Any:
        """The next message of a kind; others are passed over."""
        deadline = time.monotonic() + seconds
        while self._socket.poll(max(0, (deadline - time.monotonic()) * 1000)):
            message = msgspec.msgpack.decode(self._socket.recv(), type=FromEngine)
            if isinstance(message, kind):
                return message
        raise AssertionError(f"no {kind} came")

    def close(self) -> None:
        self._context.destroy(linger=0)
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    peer = Peer(tmp_path_factory.mktemp("p"))
    yield peer
    peer.close()


def _request(name: str, max_tokens: int = 2) -> Generate:
    return Generate(GenerateRequest(id=name, prompt_token_ids=[1, 10], params=SamplingParams(max_tokens=max_tokens)))


def _is_gone(pid: int, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False


def test_it_says_how_loading_goes_and_then_that_it_is_ready(peer: Peer) -> None:
    process = peer.spawn()
    assert peer.expect(LoadProgress) == LoadProgress("weights", 1, 2)
    assert peer.expect(Welcome).ready.num_blocks == 64
    peer.send(StatusRequest(5))
    status = peer.expect(Status)
    assert (status.call_id, status.pid) == (5, process.pid)
    peer.send(Shutdown())
    assert process.wait(60) == 0


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"\x81", msgspec.msgpack.encode({"type": "x"}), b"\x80\x04K\x01."])
def test_a_message_that_cannot_be_decoded_is_dropped(peer: Peer, frame: bytes) -> None:
    peer.spawn()
    peer.expect(Welcome)
    peer.send(_request("before", max_tokens=30))
    peer.send_bytes(frame)
    tokens = [peer.expect(Deltas).deltas[0].token_ids[0] for _ in range(30)]
    assert tokens == list(range(11, 41))


def test_it_sends_a_heartbeat_a_second_and_costs_nothing_when_idle(peer: Peer) -> None:
    process = peer.spawn()
    peer.expect(Welcome)
    peer.expect(Heartbeat)
    before, began = psutil.Process(process.pid).cpu_times(), time.monotonic()
    peer.expect(Heartbeat)
    peer.expect(Heartbeat)
    elapsed, after = time.monotonic() - began, psutil.Process(process.pid).cpu_times()
    assert elapsed > 0.5, "a late first one may be close to the second"
    assert after.user + after.system - before.user - before.system < 0.1 * elapsed


def test_it_answers_at_once_when_idle(peer: Peer) -> None:
    peer.spawn()
    peer.expect(Heartbeat)
    heartbeats = 0
    for call in range(20):
        peer.send(StatusRequest(call))
        while not isinstance(peer.expect((Status, Heartbeat)), Status):
            heartbeats += 1
    assert heartbeats < 10, "it did not sleep until its next heartbeat each time"


def test_a_waiting_adapter_command_does_not_hold_up_others(peer: Peer) -> None:
    peer.spawn()
    peer.expect(Welcome)
    peer.send(AdapterCommand(1, "load", "digest"))
    peer.send(AdapterCommand(2, "load", "broken"))
    assert [peer.expect(AdapterResult) for _ in range(2)] == [AdapterResult(2, "its file is gone"), AdapterResult(1)]


def test_ctrl_c_is_left_to_the_parent(peer: Peer) -> None:
    process = peer.spawn()
    peer.expect(Welcome)
    process.send_signal(signal.SIGINT)
    peer.send(_request("after"))
    assert peer.expect(Deltas).deltas[0].token_ids == [11]


def test_sigterm_lets_running_requests_finish(peer: Peer) -> None:
    process = peer.spawn()
    peer.expect(Welcome)
    peer.send(_request("running", max_tokens=20))
    first = peer.expect(Deltas)
    process.send_signal(signal.SIGTERM)
    rest = [peer.expect(Deltas) for _ in range(19)]
    assert [d.deltas[0].token_ids[0] for d in (first, *rest)] == list(range(11, 31))
    assert process.wait(60) == 0


def test_an_idle_engine_that_gets_sigterm_says_so_before_it_is_gone(peer: Peer) -> None:
    process = peer.spawn()
    peer.expect(Welcome)
    process.send_signal(signal.SIGTERM)
    peer.expect(Draining)
    assert process.wait(60) == 0


def test_sigterm_while_loading_ends_it(peer: Peer) -> None:
    process = peer.spawn("mute")
    peer.expect(LoadProgress)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


@pytest.mark.parametrize(("model", "kind", "status"), [("missing", "configuration", 3), ("flaky:/", "internal", None)])
def test_its_last_words_and_exit_status_tell_whose_fault_it_was(
    peer: Peer, tmp_path: Path, model: str, kind: str, status: int | None
) -> None:
    process = peer.spawn(model if status else f"flaky:{tmp_path / 'marker'}")
    fatal = peer.expect(Fatal)
    assert fatal.kind == kind
    assert process.wait(60) == (status or 1)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it takes a heartbeat longer")
def test_it_dies_with_its_parent(peer: Peer) -> None:
    with peer.start() as start:
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, sys.executable, FAKE], stdin=start, stdout=subprocess.PIPE
        )
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
    peer.send(Hello(PROTOCOL))
    peer.expect(Welcome)
    peer.send(_request("endless", max_tokens=100_000))
    peer.expect(Deltas)
    parent.kill()
    parent.wait()
    assert _is_gone(pid)


def test_without_the_signal_of_the_kernel_it_notices_that_it_is_orphaned(monkeypatch: pytest.MonkeyPatch) -> None:
    from multiflora_engine.process.lifetime import ProcessLifetime

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(sys, "platform", "other")
    try:
        lifetime = ProcessLifetime()
        assert not lifetime.orphaned
        monkeypatch.setattr(os, "getppid", lambda: 1_000_000)
        assert lifetime.orphaned
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
