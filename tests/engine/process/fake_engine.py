"""An engine process without a model, run as a script: it counts up from the last prompt token, one token a step.

The prompt's first token, or the config's model_path, chooses how it misbehaves: see `add_request` and `build`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from multiflora_adapters.kv_reach import KvReach
from multiflora_engine.cache.block_pool import BlockPool
from multiflora_engine.cache.cache_admin import CacheAdmin
from multiflora_engine.cache.cache_index import CacheIndex
from multiflora_engine.core.adapter_source import AdapterState, AdapterUnavailable
from multiflora_engine.models.errors import ModelError
from multiflora_engine.process.main import Progress, serve
from multiflora_engine.protocol.config import EngineConfig
from multiflora_engine.protocol.messages import EngineStats, EvictionForecast, Ready, ResidencyReport, SlotEvent
from multiflora_engine.protocol.requests import GenerateRequest, TokenDelta
from multiflora_engine.residency.missing_artifacts import MissingArtifacts
from multiflora_engine.scheduling.config import QueueFull

DIE, FULL, BAD, CRASH, LONG, HANG = 9001, 9002, 9003, 9004, 9005, 9006
BROKEN = "broken"


@dataclass
class FakeEngine:
    """One token per sequence and step, ten milliseconds apart."""

    running: dict[str, tuple[GenerateRequest, int]] = field(default_factory=dict)
    steps: int = 0
    is_stalled: bool = False
    cache_admin: CacheAdmin = field(default_factory=lambda: CacheAdmin(BlockPool(4), CacheIndex(4, 16)))

    @property
    def has_work(self) -> bool:
        return bool(self.running)

    def add_request(self, request: GenerateRequest) -> None:
        first = request.prompt_token_ids[0]
        if first == DIE:
            os.kill(os.getpid(), signal.SIGKILL)
        if first == FULL:
            raise QueueFull("7 sequences are waiting")
        if first == BAD:
            raise ValueError("the prompt is too long")
        self.running[request.id] = (request, 0)

    def abort(self, request_id: str, index: int | None = None) -> None:
        self.running.pop(request_id, None)

    def give_back(self, request_id: str) -> bool:
        waits = self.running.get(request_id, (None, 1))[1] == 0
        if waits:
            del self.running[request_id]
        return waits

    def step(self) -> list[TokenDelta]:
        time.sleep(0.01)
        self.steps += 1
        deltas = []
        for request, done in list(self.running.values()):
            if request.prompt_token_ids[0] == CRASH:
                raise RuntimeError("a step that goes wrong")
            if request.prompt_token_ids[0] == LONG and not done:
                _work(2.5)
            if request.prompt_token_ids[0] == HANG:
                time.sleep(60)
            last = done + 1 == request.params.max_tokens
            deltas += [
                TokenDelta(
                    request_id=request.id,
                    index=index,
                    token_ids=[request.prompt_token_ids[-1] + done + 1],
                    finish_reason="length" if last else None,
                )
                for index in range(request.params.num_sequences)
            ]
            self.running[request.id] = (request, done + 1)
            if last:
                del self.running[request.id]
        return deltas

    def stats(self) -> EngineStats:
        return EngineStats(running=len(self.running), steps=self.steps)


def _work(seconds: float) -> None:
    """Takes that much processor time, however slow the machine, and says nothing."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@dataclass
class FakeResidency:
    """An adapter takes a few polls to load; the digest "broken" never does."""

    polls: dict[str, int] = field(default_factory=dict)
    pinned: set[str] = field(default_factory=set)

    def poll(self) -> None:
        self.polls = {digest: count + 1 for digest, count in self.polls.items()}

    def state(self, digest: str) -> AdapterState:
        return "disk" if digest not in self.polls else "slot" if self.polls[digest] > 3 else "loading"

    def want(self, digest: str) -> None:
        self.polls.setdefault(digest, 0)

    load = want

    def acquire(self, digest: str) -> int | None:
        if digest == BROKEN:
            raise AdapterUnavailable("its file is gone")
        self.want(digest)
        return 3 if self.state(digest) == "slot" else None

    def kv_reach(self, digest: str) -> KvReach:
        return KvReach(digest)

    def release(self, digest: str) -> None:
        assert digest in self.polls

    def unload(self, digest: str) -> None:
        self.polls.pop(digest, None)

    def pin(self, digest: str) -> None:
        self.want(digest)
        self.pinned.add(digest)

    def unpin(self, digest: str) -> None:
        self.pinned.discard(digest)

    def is_pinned(self, digest: str) -> bool:
        return digest in self.pinned

    def pending_placements(self) -> list[str]:
        return []

    def history(self) -> list[SlotEvent]:
        return []

    def forecast(self) -> list[EvictionForecast]:
        return []

    def take_moves(self) -> dict[str, str]:
        return {}

    def snapshot(self) -> list[ResidencyReport]:
        return [
            ResidencyReport(digest, "slot", digest in self.pinned, rank=8, bytes=1, running=0)
            for digest in sorted(self.polls)
        ]


@dataclass
class FakeServed:
    ready: Ready
    engine: FakeEngine = field(default_factory=FakeEngine)
    residency: FakeResidency = field(default_factory=FakeResidency)
    artifacts: MissingArtifacts = field(default_factory=MissingArtifacts)

    def probe(self, slot: int) -> float:
        return slot / 2

    def check_ranks(self) -> None:
        """It has no others."""

    def call_between_layers(self, callback: Callable[[], None]) -> None:
        """Its steps are short."""

    def use_idle_moment(self) -> None:
        """It puts nothing off."""

    def finish(self) -> None:
        """It writes nothing."""


def build(config: EngineConfig, progress: Progress) -> FakeServed:
    """model_path "missing" is the user's to mend; "crash" dies, "killed" by SIGKILL; "mute" loads forever; "flaky:FILE"
    fails once, "short:FILE" the second time, for want of memory."""
    progress("weights", 1, 2)
    if config.model_path == "missing":
        raise ModelError("there is no model")
    if config.model_path == "crash":
        os._exit(7)
    if config.model_path == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if config.model_path == "mute":
        time.sleep(60)
    if config.model_path.startswith("flaky:"):
        marker = Path(config.model_path.removeprefix("flaky:"))
        if not marker.exists():
            marker.touch()
            raise RuntimeError("the first start goes wrong")
    if config.model_path.startswith("short:"):
        starts = Path(config.model_path.removeprefix("short:"))
        with starts.open("a") as file:
            file.write("+")
        if starts.stat().st_size == 2:
            raise ModelError("the memory is taken")
    progress("weights", 2, 2)
    return FakeServed(Ready("cpu", "float32", 64, 16, 512, 8, 4, 256, 1, 1))


if __name__ == "__main__":
    sys.exit(serve(sys.stdin.buffer, build))
