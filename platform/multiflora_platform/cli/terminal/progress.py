"""A bar on the terminal for bytes on their way to the server; nothing where the output is not a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn


@contextmanager
def _bar() -> Iterator[Progress]:
    console = Console(stderr=True)
    columns: Any = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    with Progress(
        *columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    ) as bar:
        yield bar


@contextmanager
def uploading(files: Sequence[Path]) -> Iterator[list[tuple[str, BinaryIO]]]:
    """The files opened, each with its name; what is read of them moves the bar."""
    with _bar() as bar, ExitStack() as stack:
        yield [
            (
                file.name,
                stack.enter_context(
                    bar.wrap_file(
                        stack.enter_context(file.open("rb")), total=file.stat().st_size, description=file.name
                    )
                ),
            )
            for file in files
        ]


@contextmanager
def watching(what: str) -> Iterator[Callable[[Mapping[str, int | None]], None]]:
    """Yields a function that takes a job's progress and moves the bar."""
    with _bar() as bar:
        task = bar.add_task(what, total=None)
        yield lambda progress: bar.update(task, completed=progress["done_bytes"] or 0, total=progress["total_bytes"])
