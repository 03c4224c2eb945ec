"""Artifacts that this host lacks, fetched from gateways a part at a time into its own store, which checks their digest.

Between two threads: the reader of adapters waits in `bring`, the step loop asks gateways and delivers. Knows no
sockets.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue

from multiflora_adapters.manifest import ARTIFACT_FILES
from multiflora_adapters.mixes.recipe import read_mix
from multiflora_adapters.report import AdapterError, error
from multiflora_adapters.store import ArtifactStore
from multiflora_adapters.weights import HostAdapter
from multiflora_engine.protocol.messages import ArtifactPart, ArtifactWanted

_log = logging.getLogger(__name__)
_PATIENCE = 20.0
"""Seconds for a part of a file."""


class MissingArtifacts:
    """can_ask: whether there are gateways to ask; filled by the process that they reach."""

    def __init__(self, store: ArtifactStore | None = None, patience: float = _PATIENCE) -> None:
        """store: None where nothing will be missing."""
        self.can_ask = False
        self._store = store
        self._patience = patience
        self._wanted: SimpleQueue[ArtifactWanted] = SimpleQueue()
        self._parts: SimpleQueue[ArtifactPart] = SimpleQueue()

    # ---- the reader's thread

    def before(self, load: Callable[[str], HostAdapter]) -> Callable[[str], HostAdapter]:
        """The same, once the store has the adapter's files, or those of each part of a mix."""

        def load_what_is_here(digest: str) -> HostAdapter:
            mix = read_mix(digest)
            for version in (digest,) if mix is None else [part.digest for part in mix.parts]:
                self.bring(version)
            return load(digest)

        return load_what_is_here

    def bring(self, digest: str) -> None:
        """Blocks until the store has it. Raises AdapterError where no gateway has, OSError where the disk refuses."""
        if self.can_ask and self._store is not None and not self._store.has(digest):
            self._fetch(digest, self._store)

    def _fetch(self, digest: str, store: ArtifactStore) -> None:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=".tmp-fetched-", dir=store.path(digest).parent) as folder:
            for name in ARTIFACT_FILES:
                self._fetch_file(digest, name, Path(folder, name))
                if store.has(digest):
                    return  # the gateway shares this folder, and has brought it
            manifest = store.add(Path(folder))
        if manifest.digest != digest:
            store.remove(manifest.digest)
            raise _missing(digest, "A gateway sent other files under its name.")
        _log.info("Fetched the artifact %s in %.1f s", digest, time.monotonic() - began)

    def _fetch_file(self, digest: str, name: str, path: Path) -> None:
        with path.open("xb") as file:
            while True:
                part = self._part(ArtifactWanted(digest, name, file.tell()))
                file.write(part.data)
                if file.tell() >= part.size:
                    return
                if not part.data:
                    raise _missing(digest, "A gateway's copy of it is shorter than it said.")

    def _part(self, wanted: ArtifactWanted) -> ArtifactPart:
        self._wanted.put(wanted)
        deadline = time.monotonic() + self._patience
        while True:
            try:
                part = self._parts.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                raise _missing(wanted.digest, "The gateways do not answer.") from None
            if part.wanted != wanted:
                continue  # of an earlier fetch, which gave up
            if part.is_missing:
                raise _missing(wanted.digest, "No gateway that is connected has it either.")
            return part

    # ---- the step loop

    def take_wanted(self) -> ArtifactWanted | None:
        """What is to be asked for now."""
        try:
            return self._wanted.get_nowait()
        except Empty:
            return None

    def deliver(self, part: ArtifactPart) -> None:
        self._parts.put(part)


def _missing(digest: str, cause: str) -> AdapterError:
    return AdapterError(
        error(
            "artifact",
            f"The engine's host has no artifact {digest}. {cause}",
            hint="Start the gateway that it was uploaded to, let engines and gateways share their data folder, or "
            "upload the version again.",
        )
    )
