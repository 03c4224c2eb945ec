"""Files in a folder of an S3 bucket that servers share, by key. Knows nothing of what they are.

All of it blocks, and raises OSError for all that goes wrong, FileNotFoundError for what is not there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from multiflora_platform.settings import ConfigurationError
from multiflora_platform.storage import s3

_PIECE_BYTES = 1 << 20
_ATTEMPTS = 3


class StoredObject(NamedTuple):
    key: str
    written_at: datetime
    """By the bucket's clock."""


def shared_bucket(address: str | None) -> S3Bucket | None:
    """address: s3://bucket or s3://bucket/prefix, as --artifact-store has it. Raises ConfigurationError."""
    if address is None:
        return None
    scheme, _, rest = address.partition("://")
    name, _, prefix = rest.partition("/")
    problem = None
    if scheme != "s3" or not s3.is_bucket(name):
        problem = "give s3://bucket or s3://bucket/folder"
    elif not s3.is_installed():
        problem = "S3 needs boto3 on this server: pip install 'multiflora[s3]'"
    if problem is not None:
        raise ConfigurationError(f"cannot use --artifact-store {address}: {problem}")
    return S3Bucket(name, prefix)


class S3Bucket:
    """Keys are below `prefix`. May be used by several threads."""

    def __init__(self, name: str, prefix: str = "", endpoint: str | None = None) -> None:
        self._name = name
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._endpoint = endpoint

    @cached_property
    def _client(self) -> Any:
        """Made once, which takes long, and in the thread that first needs it."""
        return s3.connect(self._endpoint)

    def objects(self, prefix: str) -> Iterator[StoredObject]:
        with self._explained():
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._name, Prefix=self._prefix + prefix):
                for item in page.get("Contents", ()):
                    yield StoredObject(item["Key"].removeprefix(self._prefix), item["LastModified"])

    def put(self, key: str, path: Path) -> None:
        """A large file in parts, several at a time."""
        with self._explained():
            self._client.upload_file(str(path), self._name, self._prefix + key)

    def put_bytes(self, key: str, content: bytes) -> None:
        with self._explained():
            self._client.put_object(Bucket=self._name, Key=self._prefix + key, Body=content)

    def get(self, key: str, file: BinaryIO) -> None:
        """Into a file that is empty. A connection that breaks is taken up where it broke."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                for piece in self._pieces(key, file.tell()):
                    file.write(piece)
                return
            except s3.S3Error as error:
                if attempt == _ATTEMPTS or error.kind != "unreachable":
                    raise self._explanation(error) from error

    def get_bytes(self, key: str) -> bytes:
        with self._explained():
            return b"".join(self._pieces(key, 0))

    def delete(self, key: str) -> None:
        """What is not there is no error."""
        with self._explained():
            self._client.delete_object(Bucket=self._name, Key=self._prefix + key)

    def _pieces(self, key: str, offset: int) -> Iterator[bytes]:
        """Raises S3Error."""
        # An object without bytes has no range that S3 would answer.
        asked = {"Range": f"bytes={offset}-"} if offset else {}
        with s3.explained():
            answer = self._client.get_object(Bucket=self._name, Key=self._prefix + key, **asked)
            yield from answer["Body"].iter_chunks(_PIECE_BYTES)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with s3.explained():
                yield
        except s3.S3Error as error:
            raise self._explanation(error) from error

    def _explanation(self, error: s3.S3Error) -> OSError:
        where = f"the artifact store s3://{self._name}/{self._prefix}"
        causes = {
            "no credentials": "this server has no AWS credentials",
            "refused": f"may not be used with this server's AWS credentials ({error})",
            "missing": f"does not exist ({error})",
            "unreachable": f"cannot be reached: {error}",
        }
        is_object = error.kind == "missing" and str(error) != "NoSuchBucket"
        return (FileNotFoundError if is_object else OSError)(f"{where}: {causes[error.kind]}")
