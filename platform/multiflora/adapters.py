"""Adapters of an offline LLM: validated, copied into a content-addressed store in a temporary folder, known by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

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


class AdapterNames:
    """name -> digest. The source folders are not needed any more once an adapter is added."""

    def __init__(self, store: ArtifactStore, base: BaseModel, max_rank: int) -> None:
        self._store = store
        self._base = base
        self._max_rank = max_rank
        self._digests: dict[str, str] = {}

    def add(self, name: str, folder: str | Path) -> str:
        """The adapter's digest. Raises AdapterRejected."""
        report = validate_adapter(Path(folder), self._base, self._max_rank)
        if not report.ok:
            raise AdapterRejected(name, report.rows)
        self._digests[name] = self._store.add(Path(folder)).digest
        return self._digests[name]

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
