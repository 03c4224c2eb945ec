"""`multiflora serve [MODEL]`: its settings, and SIGTERM until the server takes that over."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from multiflora_platform.cli.flags import add_settings_flags, configuration_from


def add_parser(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser("serve", help="serve a base model and its adapters")
    add_settings_flags(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    with ended_by_sigterm():
        configuration = configuration_from(arguments)
        from multiflora_platform.server.serve import serve

        return serve(configuration.settings, configuration.sources)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Until the server listens, which drains first, there is nothing to finish."""
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(0)
