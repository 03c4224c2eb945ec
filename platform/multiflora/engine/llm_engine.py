"""Generation step by step in this process: requests are added as they come, and each step says what it brought.

Owns the requests that are not finished; the engine is offline/'s.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from multiflora.collector import Collector
from multiflora.engine.arg_utils import EngineArgs
from multiflora.lora_request import LoRARequest
from multiflora.offline.offline_engine import OfflineEngine
from multiflora.offline.runs import OfflineRun, make_run
from multiflora.outputs import RequestOutput
from multiflora.request_maker import Prompt
from multiflora.usage.usage_lib import UsageContext
from multiflora_engine.protocol.sampling_params import SamplingParams


class LLMEngine(OfflineEngine):
    """A base model with its adapters, for programs that keep their own loop. One thread at a time, as LLM."""

    def __init__(self, engine_args: EngineArgs) -> None:
        """Raises ModelError, TokenizerError, and ValueError for options out of range."""
        super().__init__(engine_args.files, engine_args.engine_options)
        self._requests: dict[str, tuple[OfflineRun, Collector]] = {}

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs, usage_context: UsageContext | None = None) -> Self:
        """As the constructor. usage_context: vLLM's; the engine reports nothing."""
        return cls(engine_args)

    def add_request(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        lora_request: LoRARequest | None = None,
        *,
        priority: int = 0,
    ) -> None:
        """`step` computes it. priority: smaller runs first. Raises TypeError for what is no prompt; ValueError for an
        id that is in use, and for prompts and parameters out of range; AdapterRejected."""
        with self._in_use():
            if request_id in self._requests:
                raise ValueError(f"request_id {request_id!r} is in use by a request that runs; give each one its own")
            collector = self._maker.make(request_id, prompt, params, lora_request, priority=priority)
            collector.require_pieces()
            run = make_run(self._loop, collector)
            run.begin()
            self._requests[request_id] = run, collector

    def abort_request(self, request_id: str | Iterable[str]) -> None:
        """They end without another output. Ids of what has ended are fine."""
        with self._open():
            for each in [request_id] if isinstance(request_id, str) else request_id:
                if (entry := self._requests.pop(each, None)) is not None:
                    entry[0].withdraw()

    def has_unfinished_requests(self) -> bool:
        return bool(self._requests)

    def get_num_unfinished_requests(self) -> int:
        return len(self._requests)

    def step(self) -> list[RequestOutput]:
        """One step of all requests together. Of those that it brought something: everything so far, or by their
        output_kind what is new, or their end alone. The last output of a request is `finished`."""
        with self._in_use():
            if not self._requests:
                return []
            before = {id: collector.num_tokens for id, (_, collector) in self._requests.items()}
            self._loop.step()
            outputs = []
            for id, (_, collector) in list(self._requests.items()):
                if not collector.finished and collector.num_tokens == before[id]:
                    continue
                if (output := collector.shown()) is not None:
                    outputs.append(output)
                if collector.finished:
                    del self._requests[id]
            return outputs
