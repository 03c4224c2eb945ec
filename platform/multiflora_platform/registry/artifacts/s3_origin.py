"""Artifacts in a bucket of S3: where servers with data folders of their own have them from.

    <prefix>/artifacts/<digest>/<file>      the two files, byte for byte
    <prefix>/retired/<digest>               no version named it at that time (Unix seconds): its files go a day later

What a server adds is there before it is recorded, so that what is recorded can be brought anywhere. All of it blocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from multiflora_adapters.manifest import ARTIFACT_FILES
from multiflora_platform.storage import s3

_RETENTION_SECONDS = 24 * 3600.0
"""A server elsewhere may still be bringing what has just been purged."""
_PIECE_BYTES = 1 << 20
_ATTEMPTS = 3


class S3Origin:
    """An ArtifactOrigin. clock: Unix seconds."""

    def __init__(
        self, bucket: str, prefix: str = "", endpoint: str | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._endpoint = endpoint
        self._clock = clock

    @cached_property
    def _client(self) -> Any:
        """Made once, which takes long, and in the thread that first needs it."""
        return s3.connect(self._endpoint)

    @classmethod
    def parse(cls, address: str) -> S3Origin:
        """s3://bucket or s3://bucket/prefix. Raises ValueError."""
        scheme, _, rest = address.partition("://")
        bucket, _, prefix = rest.partition("/")
        if scheme != "s3" or not s3.is_bucket(bucket):
            raise ValueError("give s3://bucket or s3://bucket/folder")
        if not s3.is_installed():
            raise ValueError("S3 needs boto3 on this server: pip install 'multiflora[s3]'")
        return cls(bucket, prefix)

    def check(self) -> None:
        """Raises OSError where the bucket cannot be listed."""
        with self._explained():
            next(self._keys("artifacts/"), None)

    def put(self, digest: str, folder: Path) -> None:
        """What is there already is not sent again, unless it is about to go. Raises OSError."""
        with self._explained():
            there = set(self._keys(f"artifacts/{digest}/"))
            for key in list(self._keys(f"retired/{digest}")):
                self._client.delete_object(Bucket=self._bucket, Key=key)
                there = set()
            for name in ARTIFACT_FILES:
                if self._key(digest, name) not in there:
                    self._client.upload_file(str(folder / name), self._bucket, self._key(digest, name))

    def get(self, digest: str, folder: Path) -> bool:
        """Writes the files to the folder; False: it is not there. What they hold is the caller's to check. Raises
        OSError."""
        try:
            for name in ARTIFACT_FILES:
                self._download(self._key(digest, name), folder / name)
        except s3.S3Error as error:
            if error.kind == "missing":
                return False
            raise OSError(self._explanation(error)) from error
        return True

    def retire(self, digest: str) -> None:
        """No version names it any more. Raises OSError."""
        with self._explained():
            body = str(int(self._clock())).encode()
            self._client.put_object(Bucket=self._bucket, Key=f"{self._prefix}retired/{digest}", Body=body)

    def sweep(self, needed: Collection[str]) -> None:
        """Deletes what was retired a day ago and no version has named since. Raises OSError."""
        with self._explained():
            for key in list(self._keys("retired/")):
                digest = key.rpartition("/")[2]
                if digest not in needed:
                    since = float(self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read())
                    if self._clock() - since < _RETENTION_SECONDS:
                        continue
                    for name in ARTIFACT_FILES:
                        self._client.delete_object(Bucket=self._bucket, Key=self._key(digest, name))
                self._client.delete_object(Bucket=self._bucket, Key=key)

    def _download(self, key: str, path: Path) -> None:
        """A connection that breaks is taken up where it broke. Raises S3Error, and OSError of the disk."""
        with path.open("xb") as file:
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    for piece in self._pieces(key, file.tell()):
                        file.write(piece)
                    return
                except s3.S3Error as error:
                    if attempt == _ATTEMPTS or error.kind != "unreachable":
                        raise

    def _pieces(self, key: str, offset: int) -> Iterator[bytes]:
        with s3.explained():
            answer = self._client.get_object(Bucket=self._bucket, Key=key, Range=f"bytes={offset}-")
            yield from answer["Body"].iter_chunks(_PIECE_BYTES)

    def _keys(self, prefix: str) -> Iterator[str]:
        for page in self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        ):
            for item in page.get("Contents", ()):
                yield item["Key"]

    def _key(self, digest: str, name: str) -> str:
        return f"{self._prefix}artifacts/{digest}/{name}"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with s3.explained():
                yield
        except s3.S3Error as error:
            raise OSError(self._explanation(error)) from error

    def _explanation(self, error: s3.S3Error) -> str:
        where = f"the artifact store s3://{self._bucket}/{self._prefix}"
        causes = {
            "no credentials": "this server has no AWS credentials",
            "refused": f"may not be used with this server's AWS credentials ({error})",
            "missing": f"does not exist ({error})",
            "unreachable": f"cannot be reached: {error}",
        }
        return f"{where}: {causes[error.kind]}"
