"""Adapters of an offline LLM: validated, copied into a content-addressed store in a temporary folder, known by name."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

from multiflora.lora_request import LoRARequest
from multiflora_adapters.base_model import BaseModel
from multiflora_adapters.report import ValidationRow
from multiflora_adapters.store import ArtifactStore
from multiflora_adapters.validation import validate_adapter


class AdapterRejected(ValueError):
    """An adapter cannot be served on this base model; rows are the findings, errors first."""

    def __init__(self, name: str, rows: list[ValidationRow]) -> None:
        self.name = name
        self.rows = sorted(rows, key=lambda row: row.severity != "error")
        lines = [f"  {row.check}: {row.message} {row.hint or ''}".rstrip() for row in rows if row.severity == "error"]
        super().__init__("\n".join([f"The adapter {name!r} cannot be served:", *lines]))


_Stamp = frozenset[tuple[str, int, int]]


class AdapterNames:
    """name -> digest. The source folders are not needed any more once an adapter is added. Any thread may call."""

    def __init__(self, store: ArtifactStore, base: BaseModel, max_rank: int) -> None:
        self._store = store
        self._base = base
        self._max_rank = max_rank
        self._digests: dict[str, str] = {}
        # By name, the folder that a LoRARequest gave and the state of its files then.
        self._requested: dict[str, tuple[str, _Stamp]] = {}
        self._adding = threading.RLock()

    def add(self, name: str, folder: str | Path) -> str:
        """The adapter's digest. Raises AdapterRejected."""
        with self._adding:
            report = validate_adapter(Path(folder), self._base, self._max_rank)
            if not report.ok:
                raise AdapterRejected(name, report.rows)
            self._requested.pop(name, None)
            digest = self._digests[name] = self._store.add(Path(folder)).digest
            return digest

    def resolve(self, adapter: str | LoRARequest | None) -> tuple[str | None, str | None]:
        """(name, digest) of an added name, or of a request's folder as it is now; both None for the base model.

        Raises ValueError for a name that was not added, AdapterRejected.
        """
        if isinstance(adapter, LoRARequest):
            return adapter.lora_name, self._requested_digest(adapter)
        return adapter, self.digest(adapter)

    def needs_reading(self, adapter: str | LoRARequest | None) -> bool:
        """Whether `resolve` will have to read and copy a folder."""
        return isinstance(adapter, LoRARequest) and self._requested.get(adapter.lora_name) != _source(adapter)

    def _requested_digest(self, request: LoRARequest) -> str:
        with self._adding:
            source = _source(request)
            if self._requested.get(request.lora_name) != source:
                self.add(request.lora_name, request.lora_path)
                self._requested[request.lora_name] = source
            return self._digests[request.lora_name]

    def remove(self, name: str) -> None:
        """The name means nothing any more; what runs under it goes on. Raises ValueError for an unknown one."""
        with self._adding:
            self.digest(name)
            del self._digests[name]
            self._requested.pop(name, None)

    def names(self) -> Iterable[str]:
        return self._digests.keys()

    def digest(self, name: str | None) -> str | None:
        """None is the base model. Raises ValueError for a name that was not added: never the base in its place."""
        if name is None:
            return None
        if name not in self._digests:
            known = ", ".join(sorted(self._digests)) or "none"
            raise ValueError(f"There is no adapter {name!r}; added are: {known}.")
        return self._digests[name]


def _source(request: LoRARequest) -> tuple[str, _Stamp]:
    """Its folder, with name, size and time of change (nanoseconds) of each file; no files where there is no folder."""
    folder = Path(request.lora_path)
    files = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    return request.lora_path, frozenset((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
