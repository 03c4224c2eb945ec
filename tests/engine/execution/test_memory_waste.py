"""How much KV memory the running sequences hold without using it, over random traffic."""

from __future__ import annotations

import random

from multiflora_adapters.kv_reach import KvReach
from multiflora_engine.core.adapter_source import AdapterState
from multiflora_engine.core.step import SampledToken, StepOutput
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.scheduling.config import SchedulerConfig
from multiflora_engine.scheduling.scheduler import Scheduler


class NoAdapters:
    """For traffic of the base model."""

    def state(self, digest: str) -> AdapterState:
        return "disk"

    def want(self, digest: str) -> None: ...

    def acquire(self, digest: str) -> int | None:
        return None

    def kv_reach(self, digest: str) -> KvReach:
        return KvReach(digest)

    def release(self, digest: str) -> None: ...

    def is_pinned(self, digest: str) -> bool:
        return False

    def pending_placements(self) -> list[str]:
        return []


def test_less_than_four_percent_of_the_kv_memory_in_use_is_empty() -> None:
    """Prompts and answers as long as conversations are (ShareGPT's averages are 161 and 338 tokens), blocks of 16.

    A block held beyond the known tokens is waste, and so is the unused end of the last one.
    """
    config = SchedulerConfig(num_blocks=850, max_model_len=2048, max_num_seqs=32, max_num_batched_tokens=512)
    scheduler = Scheduler(config, NoAdapters(), "base")
    chance = random.Random(0)
    held = used = 0
    for number in range(2000):
        if number % 9 == 0:
            prompt = [chance.randrange(1000) for _ in range(1 + int(chance.expovariate(1 / 161)))]
            params = SamplingParams(max_tokens=1 + int(chance.expovariate(1 / 338)))
            if len(prompt) + (params.max_tokens or 0) < config.max_model_len:
                scheduler.add(GenerateRequest(id=str(number), prompt_token_ids=prompt, params=params))
        batch = scheduler.schedule()
        sampled = StepOutput([SampledToken(chance.randrange(1000))])
        scheduler.commit(batch, [sampled if entry.samples else StepOutput() for entry in batch.entries])
        blocks = {block for sequence in scheduler._live.running for block in sequence.block_table}
        held += len(blocks) * config.block_size
        used += sum(sequence.num_tokens for sequence in scheduler._live.running)
    assert scheduler.stats().preemptions > 0, "the pool was full at times"
    assert 1 - used / held < 0.04
