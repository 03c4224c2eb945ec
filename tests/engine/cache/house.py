"""A scheduler whose prompts run to one token, with all that its cache's administration is asked."""

from __future__ import annotations

from typing import Any

from multiflora_adapters.kv_reach import KvReach
from multiflora_engine.cache.cache_admin import CacheAdmin
from multiflora_engine.core.adapter_source import AdapterState
from multiflora_engine.core.step import SampledToken, StepOutput
from multiflora_engine.protocol.messages import CacheNode, CacheReply, CacheRequest
from multiflora_engine.protocol.requests import GenerateRequest, TokenDelta
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.scheduling.config import SchedulerConfig
from multiflora_engine.scheduling.scheduler import Scheduler

BLOCK = 4


class Adapters:
    """Always there."""

    def state(self, digest: str) -> AdapterState:
        return "slot"

    def want(self, digest: str) -> None: ...

    def acquire(self, digest: str) -> int | None:
        return 0

    def kv_reach(self, digest: str) -> KvReach:
        return KvReach(digest)

    def release(self, digest: str) -> None: ...

    def is_pinned(self, digest: str) -> bool:
        return False

    def pending_placements(self) -> list[str]:
        return []


class House:
    def __init__(self, num_blocks: int = 32) -> None:
        self.now = 100.0
        config = SchedulerConfig(num_blocks=num_blocks, block_size=BLOCK, max_model_len=100, max_num_batched_tokens=64)
        self.scheduler = Scheduler(config, Adapters(), "base", lambda: self.now)
        self.control: CacheAdmin = self.scheduler.cache_admin
        self.serial = 0

    def prompt(self, prompt: list[int], **fields: Any) -> TokenDelta:
        """Runs it to its only token; its delta."""
        self.serial += 1
        request = GenerateRequest(
            id=str(self.serial), prompt_token_ids=prompt, params=SamplingParams(max_tokens=1), **fields
        )
        self.scheduler.add(request)
        batch = self.scheduler.schedule()
        (delta,) = self.scheduler.commit(batch, [StepOutput([SampledToken(1)]) for _ in batch.entries])
        self.now += 1
        return delta

    def add(self, name: str, prompt: list[int], **fields: Any) -> TokenDelta:
        """What it is told before anything is computed for it."""
        params = SamplingParams(max_tokens=1)
        self.scheduler.add(GenerateRequest(id=name, prompt_token_ids=prompt, params=params, **fields))
        (delta,) = self.scheduler.schedule().failures
        return delta

    def ask(self, action: str, hash: str = "", first: int = 0, holder: str = "") -> CacheReply:
        self.control.submit(CacheRequest(7, action, hash, first=first, holder=holder))
        while not (replies := self.control.advance()):
            assert self.control.has_work
        (reply,) = replies
        return reply

    def nodes(self) -> dict[int, CacheNode]:
        """By tokens."""
        return {node.tokens: node for node in self.ask("report").nodes}


SHARED = list(range(10, 22))


def two_prompts(house: House) -> None:
    """Three shared blocks, then two of one prompt's own and one of the other's."""
    house.prompt([*SHARED, *range(30, 39)], cache_owner="t")
    house.prompt([*SHARED, *range(50, 55)], cache_owner="t")
