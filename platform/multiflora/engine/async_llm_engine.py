"""Generation from asyncio programs: requests come and go one by one, and run together in an engine process.

Owns the requests of this program and their ids; the process is background.py's, texts are the collector's.
"""

from __future__ import annotations

import asyncio
import math
import shutil
import tempfile
import uuid
import weakref
from collections.abc import AsyncGenerator, Collection, Coroutine, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from multiflora.adapters import AdapterNames
from multiflora.engine.arg_utils import EngineArgs
from multiflora.engine.background import BackgroundEngine, EngineDeadError
from multiflora.engine.running import RunningRequest, raise_failure, take
from multiflora.grammars import LocalGrammars
from multiflora.lora_request import LoRARequest
from multiflora.missing import missing, names_the_nearest
from multiflora.offline.pooling import PoolingRequestOutput, pooling_output
from multiflora.offline.program_tokenizer import ProgramTokenizer
from multiflora.opened_model import OpenedModel
from multiflora.outputs import RequestOutput
from multiflora.pooling_params import PoolingParams
from multiflora.request_maker import Prompt, RequestMaker
from multiflora.usage.usage_lib import UsageContext
from multiflora_adapters.store import ArtifactStore
from multiflora_engine.protocol.messages import AdapterResult
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.engine_requests import copy_request
from multiflora_platform.gateway.beams.stream import BeamStream
from multiflora_platform.text.off_loop import INLINE, off_loop

Result = TypeVar("Result")

AsyncEngineDeadError = EngineDeadError
"""As vLLM's programs import it."""


class AsyncLLMEngine:
    """A base model with its adapters in a process of its own; made outside event loops or in one, used from any.

    Making it blocks until the model is loaded. A killed or hung engine process ends its requests with EngineDeadError
    and is started again; requests that come meanwhile wait for it. `shutdown`, or the program's end, ends it.
    """

    def __init__(self, engine_args: EngineArgs) -> None:
        """Raises ModelError, TokenizerError, ValueError for options out of range, EngineDeadError."""
        model = OpenedModel.open(engine_args.files)
        artifacts = Path(tempfile.mkdtemp(prefix="multiflora-"))
        # Requests wait for as long as the others before them take.
        options = {"max_waiting": 1 << 40, "adapter_timeout": math.inf, **engine_args.engine_options}
        try:
            config = model.engine_config(artifacts, **options)
            self._engine = BackgroundEngine(config)
        except BaseException:
            shutil.rmtree(artifacts)
            raise
        self._finalizer = weakref.finalize(self, _stop, self._engine, artifacts)
        self._engine.start()
        self.tokenizer = model.tokenizer
        base = model.config.base_model(model.config.folder.name)
        self._adapters = AdapterNames(ArtifactStore(artifacts), base, config.max_lora_rank)
        grammars = LocalGrammars.of(model)  # while the process loads the weights
        try:
            ready = self._engine.wait_ready()
        except BaseException:
            self._finalizer()
            raise
        self._model = model
        self._maker = RequestMaker(model, self._adapters, grammars, ready.max_model_len)
        self._running: dict[str, RunningRequest] = {}
        self._lora_requests: dict[int, LoRARequest] = {}

    @classmethod
    def from_engine_args(
        cls, engine_args: EngineArgs, start_engine_loop: bool = True, usage_context: UsageContext | None = None
    ) -> AsyncLLMEngine:
        """As the constructor. start_engine_loop, usage_context: vLLM's; the engine always runs, and reports nothing."""
        return cls(engine_args)

    # ---- requests

    @names_the_nearest
    async def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        lora_request: LoRARequest | None = None,
        *,
        priority: int = 0,
        kept_ids: Collection[int] = (),
    ) -> AsyncGenerator[RequestOutput, None]:
        """Yields everything so far, each time that there is more; the last output is `finished`. With output_kind DELTA
        an output holds what is new, with FINAL_ONLY there is only the last.

        sampling_params: by default the model's own. priority: smaller runs first. kept_ids: of special tokens that stay
        in the text where the others are skipped. Leaving the iterator aborts the request. Raises TypeError for what is
        no prompt; ValueError for an id that is running, and for prompts and parameters out of range; AdapterRejected;
        EngineDeadError.
        """
        request_id = uuid.uuid4().hex if request_id is None else request_id
        running = self._begin(request_id)
        try:
            params = self._model.default_params() if sampling_params is None else sampling_params
            make = partial(self._maker.make, priority=priority, kept_ids=kept_ids)
            size = self._size(prompt, params, lora_request)
            collector = await off_loop(size, lambda: make(request_id, prompt, params, lora_request))
            collector.require_pieces()
            await self._engine.ready_again()
            # An id of its own: what is still on its way for an aborted request must not meet its successor.
            request = copy_request(collector.request)
            if collector.beams is None:
                running.stream = self._engine.generate(request)
            else:
                running.stream = BeamStream(self._engine, request, collector.beams)
            while not collector.finished:
                await take(running.stream, collector)
                if collector.finished:
                    # Before the last output: many programs leave the iterator there, and use the id again.
                    self._end(request_id, running)
                if (output := collector.shown()) is not None:
                    yield output
        finally:
            self._end(request_id, running)

    @names_the_nearest
    async def encode(
        self,
        prompt: Prompt,
        pooling_params: PoolingParams | None = None,
        request_id: str | None = None,
        lora_request: LoRARequest | None = None,
        *,
        priority: int = 0,
    ) -> AsyncGenerator[PoolingRequestOutput, None]:
        """Yields one output: the prompt's hidden state after the final norm, of its last token. Leaving the iterator
        aborts the request. Raises as `generate`, and RuntimeError for one that was aborted or whose adapter failed."""
        request_id = uuid.uuid4().hex if request_id is None else request_id
        running = self._begin(request_id)
        try:
            make = partial(self._maker.make_embedding, request_id, prompt, lora_request, "last", priority=priority)
            request = await off_loop(self._size(prompt, None, lora_request), make)
            await self._engine.ready_again()
            running.stream = self._engine.generate(copy_request(request))
            (delta,) = await running.stream.arrived()
            raise_failure(delta)
            self._end(request_id, running)
            yield pooling_output((request, delta), pooling_params is None or pooling_params.is_unit)
        finally:
            self._end(request_id, running)

    def _begin(self, request_id: str) -> RunningRequest:
        other = self._running.get(request_id)
        if other is not None and not other.loop.is_closed():
            raise ValueError(f"request_id {request_id!r} is in use by a request that runs; give each one its own")
        self._running[request_id] = running = RunningRequest(asyncio.get_running_loop())
        return running

    def _end(self, request_id: str, running: RunningRequest) -> None:
        """Idempotent."""
        running.end()
        if self._running.get(request_id) is running:
            del self._running[request_id]

    def _size(self, prompt: Prompt, params: SamplingParams | None, adapter: LoRARequest | None) -> int:
        """Of the work of making a request, as `off_loop` takes it."""
        size = len(prompt) if isinstance(prompt, str) else 0
        return max(size, INLINE + 1) if self._maker.takes_long(params, adapter) else size

    async def abort(self, request_id: str | Iterable[str]) -> None:
        """Ends running requests: their iterators yield a last output with finish_reason "abort". Others are ignored."""
        for each in [request_id] if isinstance(request_id, str) else request_id:
            if (running := self._running.get(each)) is not None:
                running.cut()

    def run(self, call: Coroutine[Any, Any, Result]) -> Result:
        """A coroutine over this engine's requests, for threads without an event loop; blocks until it has ended."""
        return self._engine.run(call)

    def iterate(self, items: AsyncGenerator[Result, None]) -> Iterator[Result]:
        """The same for an asynchronous generator; leaving the iterator closes it."""
        return self._engine.iterate(items)

    # ---- adapters

    async def add_lora(self, lora_request: LoRARequest) -> bool:
        """Validates the adapter and brings it to the device, so that its first request need not wait. Raises
        AdapterRejected, and RuntimeError when there is no room for it."""
        _, digest = await asyncio.to_thread(self._adapters.resolve, lora_request)
        assert digest is not None, "only the base has none"
        await self._command("load", digest)
        self._lora_requests[lora_request.lora_int_id] = lora_request
        return True

    async def remove_lora(self, lora_id: int) -> bool:
        """Frees its room; requests that run on it end as they began. False when there is no such adapter."""
        request = self._lora_requests.pop(lora_id, None)
        if request is None:
            return False
        await self._command("unload", self._added(request))
        self._adapters.remove(request.lora_name)
        return True

    async def list_loras(self) -> set[int]:
        """Of those that `add_lora` added."""
        return set(self._lora_requests)

    async def pin_lora(self, lora_id: int) -> bool:
        """Keeps it on the device, also over a restart of the engine. False when there is no such adapter."""
        request = self._lora_requests.get(lora_id)
        if request is None:
            return False
        await self._command("pin", self._added(request))
        return True

    def _added(self, request: LoRARequest) -> str:
        digest = self._adapters.digest(request.lora_name)
        assert digest is not None, "only the base has none"
        return digest

    async def _command(self, action: str, digest: str) -> None:
        await self._engine.ready_again()
        result: AdapterResult = await self._engine.ask(lambda engine: engine.adapter(action, digest))
        if result.error is not None:
            raise RuntimeError(f"The adapter cannot be used: {result.error}")

    # ---- the engine

    @property
    def is_running(self) -> bool:
        return self._engine.state == "ready"

    @property
    def errored(self) -> bool:
        """Its process has died, and is being started again or cannot be."""
        return self._engine.state in ("restarting", "failed")

    @property
    def dead_error(self) -> EngineDeadError:
        failure = self._engine.failure
        return EngineDeadError(failure.message if failure is not None else "The engine was shut down.")

    async def check_health(self) -> None:
        """Asks the engine's process. Raises EngineDeadError unless it answers."""
        await self._engine.ask(lambda engine: engine.status())

    async def get_tokenizer(self) -> ProgramTokenizer:
        return ProgramTokenizer(self.tokenizer)

    def shutdown(self) -> None:
        """Ends the process and waits for that; requests that run end with EngineDeadError. Idempotent."""
        self._finalizer()

    def shutdown_background_loop(self) -> None:
        """As `shutdown`."""
        self.shutdown()

    if not TYPE_CHECKING:  # which would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            raise missing(self, name)

    async def __aenter__(self) -> AsyncLLMEngine:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.to_thread(self.shutdown)


def _stop(engine: BackgroundEngine, artifacts: Path) -> None:
    engine.stop()
    shutil.rmtree(artifacts, ignore_errors=True)
