"""Artifacts that this host lacks, fetched from gateways a part at a time into its own store, which checks their digest.

Between two threads: the reader of adapters waits in `bring`, the step loop asks gateways and delivers. Knows no
sockets.
"""

from __future__ import annotations

import errno
import logging
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import Empty, SimpleQueue

from multiflora_adapters.manifest import ARTIFACT_FILES
from multiflora_adapters.mixes.recipe import read_mix
from multiflora_adapters.report import AdapterError, error
from multiflora_adapters.storage.host_cache import HostCache, IsUsed
from multiflora_adapters.store import ArtifactStore
from multiflora_adapters.weights import HostAdapter
from multiflora_engine.protocol.messages import ArtifactPart, ArtifactWanted

_log = logging.getLogger(__name__)
_PATIENCE = 20.0
"""Seconds for a part of a file."""


class MissingArtifacts:
    """can_ask: whether there are gateways to ask; filled by the process that they reach. is_used: whether the engine
    has an adapter in a slot or on its way there, so that its files stay; filled by what builds the engine."""

    def __init__(self, store: ArtifactStore | None = None, patience: float = _PATIENCE) -> None:
        """store: None where nothing will be missing."""
        self.can_ask = False
        self.is_used: IsUsed = lambda digest: False
        self._store = store
        self._patience = patience
        self._wanted: SimpleQueue[ArtifactWanted] = SimpleQueue()
        self._parts: SimpleQueue[ArtifactPart] = SimpleQueue()

    # ---- the reader's thread

    def before(self, load: Callable[[str], HostAdapter]) -> Callable[[str], HostAdapter]:
        """The same, once the store has the adapter's files, or those of each part of a mix."""

        def load_what_is_here(digest: str) -> HostAdapter:
            mix = read_mix(digest)
            versions = (digest,) if mix is None else [part.digest for part in mix.parts]
            with self._kept(versions):
                for version in versions:
                    self.bring(version)
                return load(digest)

        return load_what_is_here

    def bring(self, digest: str) -> None:
        """Blocks until the store has it. Raises AdapterError where no gateway has or the disk is full, else OSError."""
        if self._store is None:
            return
        if self.can_ask and not self._store.has(digest):
            with _full_disk_told(digest):
                self._fetch(digest, self._store)
        self._store.cache.touch(digest)

    @contextmanager
    def _kept(self, digests: Iterable[str]) -> Iterator[None]:
        """What is being read is evicted by no process of this host."""
        with ExitStack() as stack:
            for digest in digests:
                if self._store is not None:
                    stack.enter_context(self._store.leases.held(digest))
            yield

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
        store.cache.note_fetch(digest)
        _log.info("Fetched the artifact %s in %.1f s", digest, time.monotonic() - began)

    def _fetch_file(self, digest: str, name: str, path: Path) -> None:
        with path.open("xb") as file:
            while True:
                part = self._part(ArtifactWanted(digest, name, file.tell()))
                if not file.tell():
                    self._make_room(part.size)
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
                raise _missing(wanted.digest, part.problem or "No gateway that is connected has it either.")
            return part

    def _make_room(self, wanted: int) -> None:
        if self._store is not None:
            self._store.cache.make_room(wanted, self.is_used)

    # ---- the step loop

    @property
    def cache(self) -> HostCache | None:
        return None if self._store is None else self._store.cache

    def take_wanted(self) -> ArtifactWanted | None:
        """What is to be asked for now."""
        try:
            return self._wanted.get_nowait()
        except Empty:
            return None

    def deliver(self, part: ArtifactPart) -> None:
        self._parts.put(part)


@contextmanager
def _full_disk_told(digest: str) -> Iterator[None]:
    """Raises AdapterError in the place of the OSError."""
    try:
        yield
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = f"The artifact {digest} could not be fetched: the disk of the engine's host is full."
        hint = "Free some space in the engine's data folder, or give it --artifact-cache-bytes."
        raise AdapterError(error("artifact", message, hint=hint)) from problem


def _missing(digest: str, cause: str) -> AdapterError:
    return AdapterError(
        error(
            "artifact",
            f"The engine's host has no artifact {digest}. {cause}",
            hint="Start the gateway that it was uploaded to, let engines and gateways share their data folder, or "
            "upload the version again.",
        )
    )
