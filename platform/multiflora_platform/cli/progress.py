"""A bar on the terminal for files on their way to the server; nothing where nobody watches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn


@contextmanager
def uploading(files: Sequence[Path]) -> Iterator[list[tuple[str, BinaryIO]]]:
    """The files opened, each with its name; what is read of them moves the bar."""
    console = Console(stderr=True)
    columns: Any = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    bar = Progress(
        *columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    )
    with bar, ExitStack() as stack:
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
