"""s3://bucket/folder or s3://bucket/adapter.tar.gz: pinned to the objects' ETags. Needs the extra `s3`.

Credentials, region and endpoint are the machine's own (AWS_… in the environment, profiles, instance roles).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from multiflora_adapters.report import shown
from multiflora_platform.registry.errors import SourceNotFound, SourceRefused, SourceUnreachable, SourceUnsupported
from multiflora_platform.registry.sources.local import ARCHIVES
from multiflora_platform.registry.sources.remote import Pinned
from multiflora_platform.storage import s3
from multiflora_platform.web.problems import InvalidRequest

_KEY = re.compile(r"[^\x00-\x1f]{1,1024}")
_PIECE_BYTES = 1 << 20


@dataclass
class S3Source:
    """endpoint: None is AWS, or what AWS_ENDPOINT_URL_S3 names."""

    bucket: str
    key: str
    endpoint: str | None = None
    _etags: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, address: str, endpoint: str | None) -> S3Source:
        if not s3.is_installed():
            raise SourceUnsupported(
                "s3:// sources need boto3 on this server: pip install 'multiflora[s3]'.", pointer="/source"
            )
        bucket, _, key = address.partition("/")
        if not s3.is_bucket(bucket):
            raise InvalidRequest(
                "A bucket's name is of 3 to 63 lower-case letters, digits, dots and dashes; "
                f"{shown('s3://' + address)} has none.",
                pointer="/source",
            )
        if not _KEY.fullmatch(key):
            raise InvalidRequest(
                f"An S3 source reads s3://{bucket}/folder or s3://{bucket}/adapter.tar.gz; "
                f"{'no folder is named' if not key else 'this key has control characters or is too long'}.",
                pointer="/source",
            )
        return cls(bucket, key, endpoint)

    def pin(self) -> Pinned:
        """The recorded source carries a digest of the ETags: other bytes, another source."""
        with self._explained():
            files = self._list()
        if not files:
            raise SourceNotFound(f"{self} holds nothing.")
        lines = "\n".join(f"{path} {self._etags[path]}" for path in sorted(files))
        return Pinned(f"{self}#{hashlib.sha256(lines.encode()).hexdigest()[:16]}", files)

    def read(self, pinned: Pinned, path: str, offset: int) -> Iterator[bytes]:
        with self._explained():
            answer = s3.connect(self.endpoint).get_object(
                Bucket=self.bucket, Key=path, Range=f"bytes={offset}-", IfMatch=self._etags[path]
            )
            yield from answer["Body"].iter_chunks(_PIECE_BYTES)

    def _list(self) -> dict[str, int]:
        client = s3.connect(self.endpoint)
        if self.key.endswith(ARCHIVES):
            head = client.head_object(Bucket=self.bucket, Key=self.key)
            self._etags[self.key] = head["ETag"]
            return {self.key: head["ContentLength"]}
        answer = client.list_objects_v2(Bucket=self.bucket, Prefix=self.key.rstrip("/") + "/", Delimiter="/")
        found = {item["Key"]: item for item in answer.get("Contents", ())}
        self._etags.update({key: item["ETag"] for key, item in found.items()})
        return {key: item["Size"] for key, item in found.items()}

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            with s3.explained():
                yield
        except s3.S3Error as error:
            if error.kind == "no credentials":
                raise SourceRefused(f"{self}: this server has no AWS credentials.") from error
            if error.kind == "missing":
                raise SourceNotFound(f"{self} does not exist.") from error
            if error.kind == "refused":
                raise SourceRefused(f"{self} may not be read with this server's AWS credentials ({error}).") from error
            raise SourceUnreachable(f"{self} could not be fetched: {error}") from error
