"""Where a version's files come from when they are not in the request: file:// and hf://. Copies them into a folder.

Owns the rule that a server reads only below its --allow-source-root folders, links resolved.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from multiflora_adapters.archive import ArchiveError, unpack_adapter
from multiflora_adapters.manifest import ARTIFACT_FILES
from multiflora_platform.registry.errors import (
    InvalidRequest,
    PayloadTooLarge,
    SourceIncomplete,
    SourceNotFound,
    SourceRefused,
    SourceUnreachable,
    SourceUnsupported,
)

ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Sources:
    """roots: folders below which file:// may read; None: anywhere (the operator's own command line)."""

    roots: Sequence[Path] | None
    max_bytes: int

    def fetch(self, source: str, folder: Path) -> str:
        """Copy the adapter's two files into `folder`; returns the source as it is recorded. Blocks: call in a thread.

        Raises SourceRefused, SourceNotFound, SourceIncomplete, SourceUnsupported, SourceUnreachable, PayloadTooLarge.
        """
        scheme, _, rest = source.partition("://")
        scheme = scheme.lower()
        if scheme == "file":
            return self.copy(_local_path(rest), folder)
        if scheme == "hf":
            return self._download(rest, folder)
        if scheme in ("http", "https"):
            raise SourceRefused(
                f"{scheme}:// sources are never fetched; upload the files, or use file:// or hf://.", pointer="/source"
            )
        if scheme == "s3":
            raise SourceUnsupported("s3:// sources are not supported yet; upload the files.", pointer="/source")
        raise InvalidRequest("A source starts with file:// or hf://.", pointer="/source")

    def copy(self, path: Path, folder: Path) -> str:
        """path: an adapter's folder or an archive of one."""
        path = path.absolute()
        real = self._allowed(path)
        if real.is_file() and real.name.endswith(ARCHIVES):
            unpack(real, folder, self.max_bytes)
        elif real.is_dir():
            left = self.max_bytes
            for name in ARTIFACT_FILES:
                if (real / name).exists():
                    left -= _copy_file(self._allowed(real / name), folder / name, left)
        else:
            raise SourceNotFound(f"{path} is not an adapter's folder or archive on this server.", pointer="/source")
        require_complete(folder)
        return f"file://{path}"

    def _allowed(self, path: Path) -> Path:
        try:
            real = path.resolve()
        except (OSError, RuntimeError, ValueError):
            raise SourceNotFound(f"{str(path)[:200]!r} cannot be resolved.", pointer="/source") from None
        if self.roots is None or any(real.is_relative_to(root.resolve()) for root in self.roots):
            return real
        raise SourceRefused(
            f"{path} is not below a folder this server may read; start it with --allow-source-root DIR.",
            pointer="/source",
        )

    def _download(self, address: str, folder: Path) -> str:
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        match = _HUB.fullmatch(address)
        if match is None:
            raise InvalidRequest("A hub source reads hf://organisation/repository@revision.", pointer="/source")
        repo, source = match["repo"], f"hf://{address}"
        try:
            info = HfApi().model_info(repo, revision=match["revision"], files_metadata=True)
            sizes = [file.size or 0 for file in info.siblings or () if file.rfilename in ARTIFACT_FILES]
            if sum(sizes) > self.max_bytes:
                raise PayloadTooLarge(f"{source} has {sum(sizes)} bytes; the limit is {self.max_bytes}.")
            commit = info.sha or ""
            fetched = snapshot_download(
                repo, revision=commit, allow_patterns=list(ARTIFACT_FILES), local_dir=folder / ".hub"
            )
        except HFValidationError as error:
            raise InvalidRequest(f"{source} names no repository: {error}", pointer="/source") from error
        except (HfHubHTTPError, OSError, ValueError) as error:
            cause = str(error).strip().splitlines()[0]
            raise SourceUnreachable(f"{source} could not be fetched: {cause}", pointer="/source") from error
        for name in ARTIFACT_FILES:
            if (Path(fetched) / name).is_file():
                shutil.move(Path(fetched) / name, folder / name)
        shutil.rmtree(folder / ".hub", ignore_errors=True)
        require_complete(folder)
        return f"hf://{repo}@{commit}"


def unpack(archive: Path, folder: Path, max_bytes: int) -> None:
    try:
        unpack_adapter(archive, folder, max_bytes)
    except ArchiveError as error:
        raise SourceIncomplete(f"The archive was refused: {error}") from error


def require_complete(folder: Path) -> None:
    missing = [name for name in ARTIFACT_FILES if not (folder / name).is_file()]
    if missing:
        raise SourceIncomplete(
            f"{' and '.join(missing)} missing: an adapter is {' and '.join(ARTIFACT_FILES)}; pickles are refused."
        )


def _local_path(address: str) -> Path:
    host, slash, path = address.partition("/")
    path = slash + unquote(path)
    if host not in ("", "localhost") or not slash or "\0" in path:
        raise InvalidRequest("A local source is absolute: file:///folder/of/the/adapter.", pointer="/source")
    return Path(path)


def _copy_file(source: Path, target: Path, limit: int) -> int:
    """Regular files only, at most `limit` bytes; O_NONBLOCK so that a named pipe cannot hang the server."""
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as reader, target.open("xb") as writer:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise SourceIncomplete(f"{source.name} is not a regular file.")
        if status.st_size > limit:
            raise PayloadTooLarge(f"{source.name} has {status.st_size} bytes; {limit} are left of the upload limit.")
        shutil.copyfileobj(reader, writer, 1 << 20)
        return writer.tell()
