"""Shows the engine's start on a terminal: a bar for each stage, or a line where output is not a terminal."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from multiflora_engine.protocol.messages import LoadProgress

STAGES = {"weights": "Loading weights", "kv_cache": "Making KV blocks", "warmup": "Warming up"}


class LoadingDisplay:
    """Use as a context manager; `update` takes what the engine reports."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> LoadingDisplay:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, progress: LoadProgress) -> None:
        name = STAGES.get(progress.stage, progress.stage)
        if progress.stage not in self._tasks:
            self._tasks[progress.stage] = self._progress.add_task(name, total=progress.total)
            if self._progress.disable:
                print(f"{name} …", file=sys.stderr, flush=True)
        self._progress.update(self._tasks[progress.stage], completed=progress.done, total=progress.total)
