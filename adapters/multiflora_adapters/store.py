"""The content-addressed artifact store: `root/<digest>/` holds the two files of one adapter version. Torch-free.

Knows nothing of names or of the registry; a digest is recorded elsewhere only after `add` has returned. With an origin,
the folder is what this host has of what all hosts share.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

from multiflora_adapters.lora_config import is_regular_file
from multiflora_adapters.manifest import ARTIFACT_FILES, AdapterManifest, read_manifest
from multiflora_adapters.report import AdapterError, error
from multiflora_adapters.storage.host_cache import HostCache
from multiflora_adapters.storage.leases import ArtifactLeases

_DIGEST = re.compile(r"[0-9a-f]{64}")
_TEMPORARY_PREFIX = ".tmp-"
_ABANDONED_SECONDS = 3600.0


class ArtifactOrigin(Protocol):
    """Where all hosts have artifacts from. Its calls block, and raise OSError where it cannot be reached."""

    def check(self) -> None:
        """Whether it can be used."""

    def put(self, digest: str, folder: Path) -> None:
        """Keeps the files of the folder; known content again changes nothing."""

    def lend(self, digest: str, folder: Path) -> None:
        """As `put`, of what nothing needs yet: it may go after a while, unless something comes to need it."""

    def get(self, digest: str, folder: Path) -> bool:
        """Writes the files to the folder; False: it has none."""

    def retire(self, digest: str) -> None:
        """Nothing needs it any more: it may go after a while."""

    def sweep(self, needed: Collection[str]) -> None:
        """Lets go what was retired long ago and is none of these."""


class ArtifactStore:
    """Adds, finds and removes artifacts. Several processes may use one root at the same time. origin: None where the
    root is all there is."""

    def __init__(self, root: Path, origin: ArtifactOrigin | None = None, cache_bytes: int | None = None) -> None:
        """cache_bytes: of the root, where all that it has can be had again; None: it keeps all."""
        self._root = root
        self.origin = origin
        self.leases = ArtifactLeases(root.with_name(f".{root.name}.leases"))
        self.cache = HostCache(root, self.leases, cache_bytes, self.set_aside, self.discard)
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.remove_abandoned(_ABANDONED_SECONDS)

    def add(self, folder: Path) -> AdapterManifest:
        """Copy both files of `folder` byte for byte; adding known content again changes nothing (or repairs it).

        Raises AdapterError for unreadable content, OSError when the disk refuses.
        """
        with self._temporary() as temporary:
            for name in ARTIFACT_FILES:
                _copy(folder / name, temporary / name)
            # Of the copy: the source may change while it is read, the digest must be of the bytes that stay.
            manifest = read_manifest(temporary)
            _sync_folder(temporary)
            if self.origin is not None:
                self.origin.put(manifest.digest, temporary)
            with self.leases.held(manifest.digest):
                self._publish(temporary, manifest.digest)
                self.cache.make_room()
        return manifest

    def path(self, digest: str) -> Path:
        """Where the artifact lies, or would lie. Raises ValueError for what is no digest."""
        if not _DIGEST.fullmatch(digest):
            raise ValueError("not a SHA-256 digest")
        return self._root / digest

    def brought(self, digest: str) -> Path:
        """Where the artifact lies, once it has come from the origin if it was not here. Blocks for that long. Raises
        FileNotFoundError where nobody has it, OSError where the disk or the origin refuses, ValueError for what is no
        digest. It may be evicted again at once, unless the caller holds a lease."""
        folder = self.path(digest)
        with self.leases.held(digest):
            if self.has(digest):
                self.cache.touch(digest)
            else:
                self._bring(digest)
                self.cache.note_fetch(digest)
                self.cache.make_room()
        return folder

    def lend(self, digest: str, folder: Path) -> None:
        """The origin, if there is one, keeps files of which nothing is recorded yet. Raises OSError."""
        if self.origin is not None:
            self.origin.lend(digest, folder)

    def fetch(self, digest: str, folder: Path) -> None:
        """Writes the origin's files of an artifact to a folder outside of the store. Raises as `brought`."""
        if self.origin is None or not self.origin.get(digest, folder):
            raise FileNotFoundError(errno.ENOENT, "no such artifact", digest)
        try:
            found = read_manifest(folder).digest
        except AdapterError as error:
            raise OSError(f"the origin's artifact {digest} is damaged: {error}") from error
        if found != digest:
            raise OSError(f"the origin's artifact {digest} has other content: {found}")

    def _bring(self, digest: str) -> None:
        with self._temporary() as temporary:
            self.fetch(digest, temporary)
            for name in ARTIFACT_FILES:
                _sync(temporary / name)
            _sync_folder(temporary)
            self._publish(temporary, digest)

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[Path]:
        """A folder beside the artifacts, to become one by a rename."""
        temporary = self._root / f"{_TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        temporary.mkdir(mode=0o700)
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def has(self, digest: str) -> bool:
        folder = self.path(digest)
        return all(is_regular_file(folder / name) for name in ARTIFACT_FILES)

    def verify(self, digest: str) -> bool:
        """Hash the files again: True when they still are what their name says."""
        try:
            return read_manifest(self.path(digest)).digest == digest
        except (AdapterError, OSError):
            return False

    def remove(self, digest: str) -> None:
        """Forget an artifact; an unknown digest is no error. It vanishes at once, also for a concurrent reader."""
        aside = self.set_aside(digest)
        if aside is not None:
            self.discard(aside)

    def set_aside(self, digest: str) -> Path | None:
        """Take the artifact out of the store with one rename, for `discard` to delete; None: there is none."""
        # A rename is atomic: a reader has the whole artifact or none, never a folder that is half deleted.
        aside = self._root / f"{_TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        try:
            os.rename(self.path(digest), aside)
        except FileNotFoundError:
            return None
        return aside

    def discard(self, aside: Path) -> None:
        """Delete what `set_aside` took out. Blocks for as long as the disk takes."""
        _sync_folder(self._root)
        shutil.rmtree(aside, ignore_errors=True)

    def digests(self) -> list[str]:
        """All artifacts, sorted (for garbage collection)."""
        return sorted(entry.name for entry in self._root.iterdir() if _DIGEST.fullmatch(entry.name))

    def _publish(self, temporary: Path, digest: str) -> None:
        if self._rename(temporary, digest) or self.verify(digest):
            return
        self.remove(digest)  # damaged on disk: put the sound copy in its place
        if not self._rename(temporary, digest) and not self.verify(digest):
            raise OSError(f"cannot publish artifact {digest}")

    def _rename(self, temporary: Path, digest: str) -> bool:
        """False when the name is taken, by a faster process or an earlier add."""
        try:
            os.rename(temporary, self._root / digest)
        except OSError as problem:
            if problem.errno in (errno.EEXIST, errno.ENOTEMPTY):
                return False
            raise
        _sync_folder(self._root)
        return True

    def remove_abandoned(self, older_than: float) -> None:
        """Clear what a crash left behind. older_than: seconds; younger folders may belong to a process that is adding
        right now, so 0 is for the only process."""
        for entry in self._root.glob(f"{_TEMPORARY_PREFIX}*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - entry.stat().st_mtime >= older_than:
                    shutil.rmtree(entry, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    if not is_regular_file(source):
        raise AdapterError(error("file", f"{source.name} is missing.", hint="Upload the folder that PEFT saved."))
    with source.open("rb") as reader, open(target, "xb", opener=_private_opener) as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
        writer.flush()
        os.fsync(writer.fileno())


def _sync(file: Path) -> None:
    with file.open("rb") as written:
        os.fsync(written.fileno())


def _private_opener(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
