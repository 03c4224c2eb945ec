"""An engine in this process with its model and adapters: its life, and what runs on it.

Knows requests once they are made; what callers may write for them is LLM's.
"""

from __future__ import annotations

import itertools
import logging
import math
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from multiflora.adapters import AdapterNames
from multiflora.collector import Collector
from multiflora.grammars import LocalGrammars
from multiflora.missing import missing
from multiflora.offline.metrics import Metric, metrics_of
from multiflora.offline.offline_loop import OfflineLoop
from multiflora.offline.one_thread import OneThread
from multiflora.offline.program_tokenizer import ProgramTokenizer
from multiflora.offline.progress import GenerationBar
from multiflora.offline.runs import OfflineRun, make_run, run_all
from multiflora.opened_model import OpenedModel
from multiflora.outputs import RequestOutput
from multiflora.request_maker import RequestMaker
from multiflora_adapters.store import ArtifactStore
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.model_files import ModelFiles

if TYPE_CHECKING:
    from multiflora_engine.build import BuiltEngine
    from multiflora_engine.execution.sleep import SleepingWeights

_log = logging.getLogger(__name__)


class OfflineEngine:
    """One thread at a time: while a call or a stream of one runs, those of another raise RuntimeError."""

    def __init__(
        self, files: ModelFiles, options: Mapping[str, Any], adapters: Mapping[str, str | Path] | None = None
    ) -> None:
        """options: fields of EngineConfig. adapters: name -> PEFT folder. Raises as LLM."""
        # Heavy: `import multiflora` must work, and quickly, where no model is ever made.
        from multiflora_engine.build import build_engine

        self._model = OpenedModel.open(files)
        self.tokenizer = self._model.tokenizer
        artifacts = Path(tempfile.mkdtemp(prefix="multiflora-"))
        self._cleanup = weakref.finalize(self, shutil.rmtree, artifacts, ignore_errors=True)
        # Everything that is asked for is queued at once: it waits for as long as the rest takes.
        patient = {"max_waiting": 1 << 40, "adapter_timeout": math.inf}
        config = self._model.engine_config(artifacts, **{**patient, **options})
        self._built: BuiltEngine = build_engine(config)
        self._adapters = AdapterNames(ArtifactStore(artifacts), self._built.base, config.max_lora_rank)
        masks = self._built.grammars
        grammars = LocalGrammars(masks.vocabulary if masks else None, self._model)
        self._maker = RequestMaker(self._model, self._adapters, grammars, self._built.ready.max_model_len)
        self._loop = OfflineLoop(self._built)
        self._one_thread = OneThread()
        self._ids = itertools.count()
        # Weights that are not on their device; None on a CPU, asleep or not.
        self._sleeping: SleepingWeights | None = None
        self._is_asleep = False
        for name, path in (adapters or {}).items():
            self.add_adapter(name, path)

    # ---- adapters, tokenizer, numbers

    def add_adapter(self, name: str, path: str | Path) -> None:
        """Makes an adapter known, or a name mean another one from now on. Raises AdapterRejected."""
        with self._one_thread.held():
            self._adapters.add(name, path)

    @property
    def adapters(self) -> list[str]:
        """The names of those that were added, by a LoRARequest, too."""
        return sorted(self._adapters.names())

    def list_adapters(self) -> list[str]:
        """As `adapters`."""
        return self.adapters

    def get_tokenizer(self) -> ProgramTokenizer:
        """By the names of transformers' calls; `tokenizer` is what this engine itself uses."""
        return ProgramTokenizer(self.tokenizer)

    def get_default_sampling_params(self) -> SamplingParams:
        """What the model's generation_config.json advises; the caller's to change."""
        return self._model.default_params()

    def get_metrics(self) -> list[Metric]:
        """Counters since this was made and gauges of this moment, under vLLM's names where the meaning is the same."""
        with self._one_thread.held():
            return metrics_of(self._built.engine.stats())

    def reset_prefix_cache(self, reset_running_requests: bool = False) -> bool:
        """No later prompt finds what was computed before; what runs goes on, and ends as it would have in any case.
        True: it is always done."""
        with self._open():
            self._loop.forget_prefixes()
            return True

    # ---- its life

    def sleep(self, level: int = 1) -> None:
        """The base's weights leave a GPU for the host until `wake_up`; cached prefixes stay. On a CPU nothing moves.

        Idempotent. Raises ValueError for other levels, and RuntimeError while requests run.
        """
        if level != 1:
            raise ValueError(f"level must be 1, which keeps the weights on the host, got {level!r}")
        with self._open():
            if self._built.engine.has_work:
                raise RuntimeError("Requests run. Read their streams to the end, or leave them, before sleep().")
            if self._is_asleep:
                return
            self._sleeping = self._built.put_to_sleep()
            self._is_asleep = True
        if self._sleeping is None:
            _log.info("Asleep: on a CPU the weights stay where they are.")
        else:
            _log.info("Asleep: %d bytes of weights are on the host.", self._sleeping.num_bytes)

    def wake_up(self) -> None:
        """The weights come back. Idempotent."""
        with self._open():
            if self._sleeping is not None:
                self._sleeping.wake()
            self._sleeping, self._is_asleep = None, False

    @property
    def is_sleeping(self) -> bool:
        return self._is_asleep

    def close(self) -> None:
        """Ends its use and frees the adapter store; the memory goes with the object. Idempotent."""
        with self._one_thread.held():
            self._built.close()
            self._cleanup()

    if not TYPE_CHECKING:  # which would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            raise missing(self, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Raises RuntimeError after `close`, and while another thread uses it."""
        if not self._cleanup.alive:
            raise RuntimeError("This LLM is closed. Make another one.")
        with self._one_thread.held():
            yield

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """As `_open`, and raises RuntimeError while it sleeps."""
        with self._open():
            if self._is_asleep:
                raise RuntimeError("This LLM is asleep. Call wake_up() first.")
            yield

    # ---- what runs

    def _run_whole(self, collectors: Sequence[Collector], shows_bar: bool) -> list[RequestOutput]:
        runs = [make_run(self._loop, collector) for collector in collectors]
        with GenerationBar(len(collectors), shows_bar) as bar:
            for _ in run_all(self._loop, runs):
                if bar.due:
                    bar.update(sum(c.finished for c in collectors), sum(c.num_tokens for c in collectors))
            bar.update(len(collectors), sum(c.num_tokens for c in collectors))
        return [collector.output() for collector in collectors]

    def _run_in_pieces(self, collectors: Sequence[Collector]) -> Iterator[RequestOutput]:
        # From the first output that is asked for until the last one, or until the caller leaves the iterator.
        with self._in_use():
            for _ in run_all(self._loop, [make_run(self._loop, collector) for collector in collectors]):
                for collector in collectors:
                    news = collector.news()
                    if news is not None:
                        yield news

    def _run_silently(self, runs: Sequence[OfflineRun], shows_bar: bool) -> None:
        """Of what makes no tokens."""
        with GenerationBar(len(runs), shows_bar) as bar:
            for _ in run_all(self._loop, runs):
                if bar.due:
                    bar.update(sum(run.finished for run in runs), 0)
            bar.update(len(runs), 0)
