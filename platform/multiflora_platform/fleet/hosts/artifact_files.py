"""Parts of artifacts' files, for engines on hosts that lack them. Knows the store, no engine."""

from __future__ import annotations

import logging

from multiflora_adapters.manifest import ARTIFACT_FILES
from multiflora_adapters.store import ArtifactStore
from multiflora_engine.protocol.messages import ArtifactPart, ArtifactWanted

_log = logging.getLogger(__name__)
_PART_BYTES = 2 << 20


class ArtifactFiles:
    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def part(self, wanted: ArtifactWanted) -> ArtifactPart:
        """Blocks for as long as the disk takes, and the store's origin."""
        try:
            if wanted.name not in ARTIFACT_FILES:
                raise ValueError("not a file of an artifact")
            with self._store.leases.held(wanted.digest):
                return self._read(wanted)
        except FileNotFoundError:
            return ArtifactPart(wanted, is_missing=True)
        except (OSError, ValueError) as error:
            cause = getattr(error, "strerror", None) or error
            _log.warning("An engine asked for the artifact %s, which cannot be read: %s", wanted.digest, cause)
            return ArtifactPart(wanted, is_missing=True, problem=f"A gateway could not bring it: {cause}.")

    def _read(self, wanted: ArtifactWanted) -> ArtifactPart:
        with (self._store.brought(wanted.digest) / wanted.name).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(wanted.offset)
            return ArtifactPart(wanted, file.read(_PART_BYTES), size)
