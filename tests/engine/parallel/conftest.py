"""Engines whose other ranks are threads of the test: the same code on the same lines, without a start of torch each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from multiprocessing.connection import Connection

import pytest

from multiflora_engine.process.rank import follow


def start_thread(steps: Connection, adapters: Connection) -> Callable[[], str]:
    """A `StartProcess`."""
    ended: list[int] = []
    thread = threading.Thread(target=lambda: ended.append(follow(steps, adapters)), daemon=True)
    thread.start()

    def cause_of_end() -> str:
        thread.join(10)
        return f"exit status {ended}"

    return cause_of_end


@pytest.fixture(autouse=True)
def _ranks_are_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiflora_engine.build.start_process", start_thread)
