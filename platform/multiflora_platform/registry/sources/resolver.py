"""Where a version's files come from when they are not in the request: an address, and who can fetch it.

file:// is local.py's, hf:// and s3:// are remote and fetched by a job (remote.py). http(s) is never read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from multiflora_platform.registry.errors import SourceRefused
from multiflora_platform.registry.sources.hub import HubSource
from multiflora_platform.registry.sources.local import LocalSource
from multiflora_platform.registry.sources.remote import Advance, RemoteSource, fetch, require_adapter
from multiflora_platform.registry.sources.s3 import S3Source
from multiflora_platform.web.problems import InvalidRequest

# An organisation's first character tells a hub's id from `./folder` and `../folder`.
_HUB_ID = re.compile(r"[\w-][\w.-]{0,95}/[\w.-]{1,96}(@[\w./-]{1,100})?")


def adapter_source(given: str) -> str:
    """given: an address, a path of this machine, or else an adapter's id on the hub, which becomes its address."""
    is_id = "://" not in given and _HUB_ID.fullmatch(given) and not Path(given).exists()
    return f"hf://{given}" if is_id else given


@dataclass(frozen=True)
class Sources:
    """Where an address leads. The registry fills it from the operator's settings."""

    roots: Sequence[Path] | None  # folders below which file:// may read; None: anywhere (the operator's command line)
    max_bytes: int  # of one adapter
    hub_endpoint: str | None = None  # None: the service's own
    s3_endpoint: str | None = None  # None: the service's own

    def is_remote(self, source: str) -> bool:
        """Whether it takes a job to fetch it. Raises InvalidRequest, SourceRefused, SourceUnsupported for no source."""
        scheme = _scheme(source)
        if scheme == "file":
            return False
        self._remote(source)
        return True

    def fetch_local(self, source: str, folder: Path) -> str:
        """Copy the files of a file:// source; returns it as it is recorded. Blocks: call in a thread.

        Raises SourceRefused, SourceNotFound, SourceIncomplete, PayloadTooLarge.
        """
        return self.copy(_local_path(source.partition("://")[2]), folder)

    def fetch_remote(self, source: str, folder: Path, advance: Advance) -> str:
        """Copy the files, going on where an earlier attempt stopped; returns the pinned source. Blocks.

        Raises SourceNotFound, SourceRefused, SourceIncomplete, SourceUnreachable, PayloadTooLarge.
        """
        return fetch(self._remote(source), folder, self.max_bytes, advance)

    def pin(self, source: str) -> str:
        """What a remote source means now, for ever; nothing is fetched. Blocks; raises as fetch_remote."""
        return require_adapter(self._remote(source), self.max_bytes)[0].source

    def copy(self, path: Path, folder: Path) -> str:
        """path: an adapter's folder or an archive of one."""
        return LocalSource(self.roots, self.max_bytes).copy(path, folder)

    def _remote(self, source: str) -> RemoteSource:
        scheme, address = _scheme(source), source.partition("://")[2]
        if scheme == "hf":
            return HubSource.parse(address, self.hub_endpoint)
        if scheme == "s3":
            return S3Source.parse(address, self.s3_endpoint)
        if scheme in ("http", "https"):
            raise SourceRefused(
                f"{scheme}:// sources are never fetched; upload the files, or use file://, hf:// or s3://.",
                pointer="/source",
            )
        raise InvalidRequest("A source starts with file://, hf:// or s3://.", pointer="/source")


def _scheme(source: str) -> str:
    return source.partition("://")[0].lower() if "://" in source else ""


def _local_path(address: str) -> Path:
    host, slash, path = address.partition("/")
    path = slash + unquote(path)
    if host not in ("", "localhost") or not slash or "\0" in path:
        raise InvalidRequest("A local source is absolute: file:///folder/of/the/adapter.", pointer="/source")
    return Path(path)
