"""The background thread that reads adapters from disk into host memory, so that no step waits for a file."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

from multiflora_adapters.mixes.mixing import MixError
from multiflora_adapters.report import AdapterError
from multiflora_adapters.weights import HostAdapter
from multiflora_engine.core.adapter_source import AdapterUnavailable, MixRefused

_logger = logging.getLogger(__name__)


class AdapterReader:
    """Runs `load(digest)` for one digest after the other. Used by one thread, apart from its own."""

    def __init__(self, load: Callable[[str], HostAdapter]) -> None:
        self._load = load
        self._wanted: SimpleQueue[str | None] = SimpleQueue()
        self._results: SimpleQueue[tuple[str, HostAdapter | AdapterUnavailable]] = SimpleQueue()
        self._finished = threading.Event()
        self._thread: threading.Thread | None = None
        self.outstanding = 0

    def start(self, digest: str) -> None:
        if self._thread is None:
            # A daemon: a slow disk must not keep the process from ending.
            self._thread = threading.Thread(target=self._run, name="adapter-reader", daemon=True)
            self._thread.start()
        self.outstanding += 1
        self._wanted.put(digest)

    def finished(self) -> list[tuple[str, HostAdapter | AdapterUnavailable]]:
        """(digest, the adapter or why it cannot be read) of all loads that ended since the last call."""
        self._finished.clear()
        results = []
        while not self._results.empty():
            results.append(self._results.get())
        self.outstanding -= len(results)
        return results

    def wait(self, timeout: float) -> bool:
        """Sleep until a load ends, at most `timeout` seconds; True when one did."""
        return self._finished.wait(timeout)

    def close(self) -> None:
        if self._thread is not None:
            self._wanted.put(None)
            self._thread.join(timeout=5.0)
            self._thread = None

    def _run(self) -> None:
        while (digest := self._wanted.get()) is not None:
            self._results.put((digest, self._read(digest)))
            self._finished.set()

    def _read(self, digest: str) -> HostAdapter | AdapterUnavailable:
        try:
            return self._load(digest)
        except MixError as problem:
            return MixRefused(str(problem))
        except AdapterError as problem:
            return AdapterUnavailable(str(problem))
        except OSError as problem:
            return AdapterUnavailable(f"The adapter's files cannot be read: {problem.strerror or problem}.")
        except Exception as problem:  # whatever a file does to us, only the requests that name it may fail
            _logger.exception("loading adapter %s failed", digest)
            return AdapterUnavailable(f"Loading the adapter failed: {problem}.")
