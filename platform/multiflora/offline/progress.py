"""The progress bar of offline generation, on stderr."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SECONDS_BETWEEN_UPDATES = 0.1


class GenerationBar:
    """Finished requests, and tokens per second so far. shown=False draws nothing."""

    def __init__(self, total: int, shown: bool) -> None:
        self._began = time.monotonic()
        self._updated = 0.0
        self._bar = Progress(
            TextColumn("Generating"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not shown,
        )
        self._task = self._bar.add_task("", total=total, speed="")

    @property
    def due(self) -> bool:
        """Whether the last update is long enough ago for another one to be worth its cost."""
        return time.monotonic() - self._updated >= _SECONDS_BETWEEN_UPDATES

    def update(self, finished: int, tokens: int) -> None:
        self._updated = time.monotonic()
        speed = f"{tokens / max(self._updated - self._began, 1e-9):,.0f} tokens/s"
        self._bar.update(self._task, completed=finished, speed=speed)

    def __enter__(self) -> GenerationBar:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()
