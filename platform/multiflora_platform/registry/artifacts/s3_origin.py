"""Artifacts in a bucket of S3: where servers with data folders of their own have them from.

    <prefix>/artifacts/<digest>/<file>      the two files, byte for byte
    <prefix>/retired/<digest>               no version named it at that time (Unix seconds): its files go a day later

What a server adds is there before it is recorded, so that what is recorded can be brought anywhere. All of it blocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path

from multiflora_adapters.manifest import ARTIFACT_FILES
from multiflora_platform.storage.s3_bucket import S3Bucket

_RETENTION_SECONDS = 24 * 3600.0
"""A server elsewhere may still be bringing what has just been purged."""
_LEAVING_SECONDS = 3600.0
"""Before that time is over, what another server's clock may take for over already."""


class S3Origin:
    """An ArtifactOrigin. clock: Unix seconds."""

    def __init__(self, bucket: S3Bucket, clock: Callable[[], float] = time.time) -> None:
        self._bucket = bucket
        self._clock = clock

    def check(self) -> None:
        """Raises OSError where the bucket cannot be listed."""
        next(self._bucket.objects("artifacts/"), None)

    def put(self, digest: str, folder: Path) -> None:
        """What is there already is not sent again, unless it is about to go. Raises OSError."""
        there = self._lasting(digest)
        self._bucket.delete(_retired(digest))
        self._send(digest, folder, there)

    def lend(self, digest: str, folder: Path) -> None:
        """As `put`, of what no version names yet: unless one does, it goes as if retired now. Raises OSError."""
        there = self._lasting(digest)
        self.retire(digest)
        self._send(digest, folder, there)

    def get(self, digest: str, folder: Path) -> bool:
        """Writes the files to the folder; False: it is not there. What they hold is the caller's to check. Raises
        OSError."""
        try:
            for name in ARTIFACT_FILES:
                with (folder / name).open("xb") as file:
                    self._bucket.get(_key(digest, name), file)
        except FileNotFoundError:
            return False
        return True

    def retire(self, digest: str) -> None:
        """No version names it any more. Raises OSError."""
        self._bucket.put_bytes(_retired(digest), str(int(self._clock())).encode())

    def sweep(self, needed: Collection[str]) -> None:
        """Deletes what was retired a day ago and no version has named since. Raises OSError."""
        for key in self._keys("retired/"):
            digest = key.rpartition("/")[2]
            if digest not in needed:
                if self._age(key) < _RETENTION_SECONDS:
                    continue
                for name in ARTIFACT_FILES:
                    self._bucket.delete(_key(digest, name))
            self._bucket.delete(key)

    def _lasting(self, digest: str) -> set[str]:
        """Of its files, those that are there and that no server deletes for now."""
        try:
            is_leaving = self._age(_retired(digest)) > _RETENTION_SECONDS - _LEAVING_SECONDS
        except FileNotFoundError:
            is_leaving = False
        return set() if is_leaving else self._keys(f"artifacts/{digest}/")

    def _send(self, digest: str, folder: Path, there: Collection[str]) -> None:
        for name in ARTIFACT_FILES:
            if _key(digest, name) not in there:
                self._bucket.put(_key(digest, name), folder / name)

    def _age(self, key: str) -> float:
        """Seconds since it was written there as retired."""
        return self._clock() - float(self._bucket.get_bytes(key))

    def _keys(self, prefix: str) -> set[str]:
        return {found.key for found in self._bucket.objects(prefix)}


def _key(digest: str, name: str) -> str:
    return f"artifacts/{digest}/{name}"


def _retired(digest: str) -> str:
    return f"retired/{digest}"
