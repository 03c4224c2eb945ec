"""`multiflora top`: a live view of a server in the terminal; one page of text or JSON for a pipe."""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from queue import SimpleQueue
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console, Group
from rich.text import Text

from multiflora_platform.cli.actions import server_command
from multiflora_platform.cli.watching.live_numbers import SORT_KEYS, Numbers, sorted_by
from multiflora_platform.cli.watching.live_page import keys_line, page
from multiflora_platform.cli.watching.live_server import LiveServer
from multiflora_platform.exit_codes import CommandError, ExitCode

_SHORTEST_INTERVAL = 0.5
# How soon a key, a new size and new numbers are seen.
_TICK_SECONDS = 0.1
_PIPE_COLUMNS = 160
_COLUMN_OF = {column[0]: column for column in SORT_KEYS}

News = Numbers | Exception


def add_parser(commands: Any) -> None:
    parser = server_command(commands, "top", run, "a live view: load, cache, memory, alerts, the busiest adapters")
    parser.add_argument("--interval", type=_interval, default=2.0, metavar="SECONDS", help="default 2, at least 0.5")
    parser.add_argument("--sort", choices=tuple(SORT_KEYS), default=next(iter(SORT_KEYS)), help="of the adapters")
    parser.add_argument("--once", action="store_true", help="print one page and end, as with -o json and in a pipe")


def _interval(text: str) -> float:
    """For argparse; raises its ArgumentTypeError."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _SHORTEST_INTERVAL <= seconds <= threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from {_SHORTEST_INTERVAL} up")
    return seconds


def run(arguments: argparse.Namespace) -> int:
    server = LiveServer(arguments)
    if arguments.output == "json":
        json.dump(asdict(sorted_by(server.look(), arguments.sort)), sys.stdout, indent=2, ensure_ascii=False)
        print()
    elif arguments.once or not _is_interactive():
        width = shutil.get_terminal_size((_PIPE_COLUMNS, 0)).columns
        print(*(line.plain.rstrip() for line in page(server.look(), arguments.sort, width)), sep="\n")
    else:
        _watch(server, arguments)
    return ExitCode.OK


def _is_interactive() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def _watch(server: LiveServer, arguments: argparse.Namespace) -> None:
    """Until q or Ctrl-C. Raises what goes wrong but for a server that cannot be reached, which is asked again."""
    news: SimpleQueue[News] = SimpleQueue()
    ended = threading.Event()
    # A daemon: q ends the command though an answer does not come.
    asking = threading.Thread(target=_ask, args=(server, arguments.interval, news, ended), daemon=True)
    console = Console(highlight=False)
    with _restored_on_sigterm(), console.screen(), _single_keys(sys.stdin.fileno()):
        asking.start()
        try:
            _View(console, arguments.url, arguments.sort).follow(news, sys.stdin.fileno())
        except KeyboardInterrupt:
            pass
        finally:
            ended.set()


def _ask(server: LiveServer, interval: float, news: SimpleQueue[News], ended: threading.Event) -> None:
    """Puts what the server tells, and what went wrong, until it is ended."""
    while not ended.is_set():
        try:
            news.put(server.look())
        except Exception as error:
            news.put(error)
        ended.wait(interval)


class _View:
    """What stands on the screen, drawn anew when numbers, the window's size or the sorting change."""

    def __init__(self, console: Console, url: str, sort: str) -> None:
        self._console = console
        self._sort = sort
        self._numbers: Numbers | None = None
        self._trouble = f"asking {url}"

    def follow(self, news: SimpleQueue[News], keys: int) -> None:
        """Until q, or the end of the terminal. keys: its file descriptor. Raises as _watch."""
        drawn: object = None
        while True:
            while not news.empty():
                self._learn(news.get())
            shown = (self._numbers, self._trouble, self._sort, self._console.size)
            if shown != drawn:
                self._draw()
                drawn = shown
            if select.select([keys], [], [], _TICK_SECONDS)[0]:
                pressed = os.read(keys, 64)
                if not pressed or b"q" in pressed:
                    return
                self._sort = _COLUMN_OF.get(pressed.decode(errors="replace")[-1], self._sort)

    def _learn(self, told: News) -> None:
        if isinstance(told, CommandError) and told.code == ExitCode.UNREACHABLE:
            self._trouble = f"trying again: {told}"
        elif isinstance(told, Exception):
            raise told
        else:
            self._numbers, self._trouble = told, ""

    def _draw(self) -> None:
        width, height = self._console.size
        if self._numbers is None:
            lines = [Text(self._trouble)]
            lines[0].truncate(width, overflow="ellipsis")
        else:
            lines = page(self._numbers, self._sort, width, height - 1, self._trouble)
        lines += [Text()] * (height - 1 - len(lines))
        self._console.update_screen(Group(*lines, keys_line(self._sort, width)))


@contextmanager
def _single_keys(terminal: int) -> Iterator[None]:
    """Keys come one by one, unseen. Ctrl-Z does nothing: the shell would get this screen."""
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        mode = termios.tcgetattr(terminal)
        mode[6][termios.VSUSP] = bytes([os.fpathconf(terminal, "PC_VDISABLE")])
        termios.tcsetattr(terminal, termios.TCSANOW, mode)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)


@contextmanager
def _restored_on_sigterm() -> Iterator[None]:
    """SIGTERM ends what is inside as an exception does, and the process with 0."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(ExitCode.OK)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
