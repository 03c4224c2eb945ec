"""Where adapters lie that have not been registered: the folders and organisations of --adapter-resolver.

Owns which model name means which adapter there; intake/first_use.py decides when one is looked for and registered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from multiflora_adapters.manifest import ARTIFACT_FILES
from multiflora_platform.registry.errors import SourceIncomplete, SourceNotFound
from multiflora_platform.registry.sources.resolver import Sources
from multiflora_platform.web.names import is_name
from multiflora_platform.web.problems import InvalidRequest


@dataclass(frozen=True)
class FoundAdapter:
    """An adapter that a resolver has; made by `look`."""

    source: str  # a path or an address
    stamp: str  # other files, another stamp


class AdapterResolver(Protocol):
    """One --adapter-resolver."""

    @property
    def recheck_seconds(self) -> float:
        """How long an answer of `look` holds, so that a flood of requests does not become a flood of looks."""
        ...

    def registered(self, model: str) -> str | None:
        """The name under which `model` (without an alias) is registered; None: no adapter here can be meant."""
        ...

    def look(self, name: str) -> FoundAdapter | None:
        """name: of `registered`. Blocks: call in a thread. Raises SourceUnreachable, SourceRefused."""
        ...


@dataclass(frozen=True)
class FolderResolver:
    """root: a folder of adapters' folders, which are named as the adapters are."""

    root: Path
    recheck_seconds: float = 1.0

    def registered(self, model: str) -> str | None:
        # A valid name has no slash and does not start with a dot, so that it cannot lead out of the root.
        return model if is_name(model) else None

    def look(self, name: str) -> FoundAdapter | None:
        try:
            folder = (self.root / name).resolve(strict=True)
            if not folder.is_relative_to(self.root.resolve()) or not (folder / ARTIFACT_FILES[0]).is_file():
                return None
            files = [file.stat() for file in map(folder.joinpath, ARTIFACT_FILES) if file.exists()]
        except (OSError, RuntimeError):  # gone meanwhile, not readable, or a loop of links
            return None
        stamp = " ".join(f"{file.st_ino}:{file.st_size}:{file.st_mtime_ns}" for file in files)
        return FoundAdapter(str(self.root / name), stamp)


@dataclass(frozen=True)
class HubResolver:
    """organisation/NAME of the hub, for the models organisation/NAME and NAME; both are the adapter
    organisation--NAME."""

    organisation: str
    sources: Sources
    recheck_seconds: float = 30.0

    def registered(self, model: str) -> str | None:
        repository = model.removeprefix(f"{self.organisation}/").removeprefix(self._prefix)
        name = self._prefix + repository
        return name if is_name(repository) and is_name(name) else None

    def look(self, name: str) -> FoundAdapter | None:
        source = f"hf://{self.organisation}/{name.removeprefix(self._prefix)}"
        try:
            return FoundAdapter(source, self.sources.pin(source))
        except (SourceNotFound, SourceIncomplete, InvalidRequest):
            return None

    @property
    def _prefix(self) -> str:
        return f"{self.organisation}--"


def parse_resolvers(given: Sequence[str], sources: Sources) -> list[AdapterResolver]:
    """given: dir:FOLDER and hf:ORGANISATION/*, as the settings have checked them."""
    resolvers: list[AdapterResolver] = []
    for one in given:
        kind, _, place = one.partition(":")
        if kind == "dir":
            resolvers.append(FolderResolver(Path(place).expanduser().absolute()))
        else:
            resolvers.append(HubResolver(place.removesuffix("/*"), sources))
    return resolvers
