"""Offline inference: one engine in this process, prompts in, texts out, no server.

Owns the engine's life and the loop that steps it. Everything that needs torch is imported when an LLM is made.
"""

from __future__ import annotations

import itertools
import math
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex, overload

from multiflora.adapters import AdapterNames
from multiflora.collector import Collector
from multiflora.grammars import LocalGrammars
from multiflora.one_thread import OneThread
from multiflora.opened_model import OpenedModel
from multiflora.outputs import RequestOutput
from multiflora.progress import GenerationBar
from multiflora.request_maker import Prompt, RequestMaker, no_prompt
from multiflora_adapters.store import ArtifactStore
from multiflora_engine.protocol.sampling_params import SamplingParams

if TYPE_CHECKING:
    from multiflora_engine.build import BuiltEngine

Message = Mapping[str, Any]


class LLM:
    """A base model with its adapters, ready to generate. One thread at a time: while a call or a stream of one
    runs, those of another raise RuntimeError.

    model: a folder, or a Hugging Face id. adapters: name -> PEFT folder; each is validated and copied, so that the
    folder is not needed afterwards. engine_options: fields of EngineConfig (max_model_len, max_loras, seed, ...).
    Raises ModelError, AdapterRejected, and TokenizerError.
    """

    def __init__(
        self, model: str | Path, adapters: Mapping[str, str | Path] | None = None, **engine_options: Any
    ) -> None:
        # Heavy: `import multiflora` must work, and quickly, where no model is ever made.
        from multiflora_engine.build import build_engine

        self._model = OpenedModel.open(model)
        self.tokenizer = self._model.tokenizer
        artifacts = Path(tempfile.mkdtemp(prefix="multiflora-"))
        self._cleanup = weakref.finalize(self, shutil.rmtree, artifacts, ignore_errors=True)
        # Everything that is asked for is queued at once: it waits for as long as the rest takes.
        options = {"max_waiting": 1 << 40, "adapter_timeout": math.inf, **engine_options}
        config = self._model.engine_config(artifacts, **options)
        self._built: BuiltEngine = build_engine(config)
        self._adapters = AdapterNames(ArtifactStore(artifacts), self._built.base, config.max_lora_rank)
        masks = self._built.grammars
        grammars = LocalGrammars(masks.vocabulary if masks else None, self.tokenizer.special_ids_by_text)
        self._maker = RequestMaker(self._model, self._adapters, grammars, self._built.ready.max_model_len)
        self._collectors: dict[str, Collector] = {}
        self._one_thread = OneThread()
        self._ids = itertools.count()
        for name, path in (adapters or {}).items():
            self.add_adapter(name, path)

    def add_adapter(self, name: str, path: str | Path) -> None:
        """Makes an adapter known, or a name mean another one from now on. Raises AdapterRejected."""
        with self._one_thread.held():
            self._adapters.add(name, path)

    @property
    def adapters(self) -> list[str]:
        return sorted(self._adapters.names())

    @overload
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        adapter: str | Sequence[str | None] | None = None,
        progress: bool = True,
        stream: Literal[False] = False,
    ) -> list[RequestOutput]: ...

    @overload
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        adapter: str | Sequence[str | None] | None = None,
        progress: bool = True,
        stream: Literal[True],
    ) -> Iterator[RequestOutput]: ...

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        adapter: str | Sequence[str | None] | None = None,
        progress: bool = True,
        stream: bool = False,
    ) -> list[RequestOutput] | Iterator[RequestOutput]:
        """All prompts in one batch, in their order; requests of different adapters run together.

        prompts: a text or its token ids, or a list of these. params, adapter: one for all, or one for each; no params
        are the model's own defaults, no max_tokens is as much as the model's length allows. progress: a bar on the
        terminal. stream: yields what is new, as it comes, instead. Leaving the iterator aborts the requests.
        Raises ValueError for prompts and parameters out of range, and for unknown adapters, before anything runs;
        RuntimeError after `close`, and while another thread uses this LLM.
        """
        if not self._cleanup.alive:
            raise RuntimeError("This LLM is closed. Make another one.")
        with self._one_thread.held():
            return self._generate(prompts, params, adapter, progress, stream)

    def _generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | Sequence[SamplingParams] | None,
        adapter: str | Sequence[str | None] | None,
        progress: bool,
        stream: bool,
    ) -> list[RequestOutput] | Iterator[RequestOutput]:
        texts = _as_list(prompts)
        all_params = _for_each(params if params is not None else self._model.default_params(), len(texts), "params")
        names = _for_each(adapter, len(texts), "adapter")
        collectors = [
            self._maker.make(str(next(self._ids)), prompt, text_params, name)
            for prompt, text_params, name in zip(texts, all_params, names, strict=True)
        ]
        if stream and any(c.request.params.num_sequences > c.num_returned for c in collectors):
            raise ValueError("best_of cannot be streamed: which candidates are the best is known at the end.")
        self._submit(collectors)
        if stream:
            return self._stream(collectors)
        with GenerationBar(len(collectors), progress) as bar:
            for _ in self._run(collectors):
                if bar.due:
                    bar.update(sum(c.finished for c in collectors), sum(c.num_tokens for c in collectors))
            bar.update(len(collectors), sum(c.num_tokens for c in collectors))
        return [collector.output() for collector in collectors]

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        adapter: str | Sequence[str | None] | None = None,
        progress: bool = True,
        **template_options: Any,
    ) -> list[RequestOutput]:
        """One conversation or several, through the model's chat template; template_options: those of
        `Tokenizer.apply_chat_template` (tools, add_generation_prompt, chat_template_kwargs, ...)."""
        one = bool(messages) and isinstance(messages[0], Mapping)
        conversations: Any = [messages] if one else messages
        prompts = [
            self.tokenizer.encode(self.tokenizer.apply_chat_template(each, **template_options), False)
            for each in conversations
        ]
        return self.generate(prompts, params, adapter=adapter, progress=progress)

    def close(self) -> None:
        """Ends its use and frees the adapter store; the memory goes with the object. Idempotent."""
        with self._one_thread.held():
            self._built.close()
            self._cleanup()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ---- requests

    def _submit(self, collectors: list[Collector]) -> None:
        """All of them or none."""
        try:
            for place, collector in enumerate(collectors):
                try:
                    self._built.engine.add_request(collector.request)
                except ValueError as error:
                    raise ValueError(f"prompt {place}: {error}") from None
                self._collectors[collector.request.id] = collector
        except BaseException:
            self._withdraw(collectors)
            raise

    def _withdraw(self, collectors: list[Collector]) -> None:
        for collector in collectors:
            if self._collectors.pop(collector.request.id, None) is not None:
                self._built.engine.abort(collector.request.id)

    # ---- the loop

    def _stream(self, collectors: list[Collector]) -> Iterator[RequestOutput]:
        # From the first output that is asked for until the last one, or until the caller leaves the iterator.
        with self._one_thread.held():
            for _ in self._run(collectors):
                for collector in collectors:
                    news = collector.news()
                    if news is not None:
                        yield news

    def _run(self, collectors: list[Collector]) -> Iterator[None]:
        """Steps until these requests have finished; yields after every step, also where the step was another call's."""
        try:
            while not all(collector.finished for collector in collectors):
                self._step()
                yield
        finally:
            self._withdraw(collectors)

    def _step(self) -> None:
        for delta in self._built.engine.step():
            collector = self._collectors.get(delta.request_id)
            if collector is not None:
                if collector.push(delta):
                    self._built.engine.abort(delta.request_id, delta.index)
                if collector.finished:
                    self._withdraw([collector])
        if self._built.engine.is_stalled:
            self._built.residency.wait(0.01)


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if not isinstance(prompts, Iterable):
        raise no_prompt(prompts)
    items = list(prompts)
    if items and isinstance(items[0], SupportsIndex) and not isinstance(items[0], Sized):
        return [items]  # type: ignore[list-item]  # the ids of one prompt
    return items  # type: ignore[return-value]


def _for_each(value: Any, count: int, name: str) -> list[Any]:
    if value is None or isinstance(value, str | SamplingParams):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{name} has {len(value)} entries for {count} prompts")
    return list(value)
