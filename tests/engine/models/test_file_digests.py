"""Digests of a model's files: what a signal interrupts ends at once."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from multiflora_engine.models.file_digests import file_digests


@pytest.mark.timeout(60)
def test_a_signal_does_not_wait_for_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = [tmp_path / f"{number}.safetensors" for number in range(8)]
    for file in files:
        file.touch()
        with file.open("r+b") as opened:
            opened.truncate(1 << 40)  # without a byte on the disk, and hours of work

    def end(*_: Any) -> None:
        raise SystemExit(0)

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(SystemExit):
            file_digests(files)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
