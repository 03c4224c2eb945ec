"""May these files be served? Validation, the engine's probe and the version's evals, one after the other.

Knows no database and no job: files go in, findings come out. What passed validation lies in the store afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multiflora_adapters.facts import read_facts
from multiflora_adapters.manifest import AdapterManifest, read_manifest
from multiflora_adapters.report import AdapterError
from multiflora_adapters.store import ArtifactStore
from multiflora_adapters.validation import ValidationRow, validate_adapter
from multiflora_platform.registry.intake import evals
from multiflora_platform.registry.intake.base_choice import choose_base
from multiflora_platform.registry.rows.versions import ValidatedVersion
from multiflora_platform.registry.schemas.version_metadata import Eval
from multiflora_platform.registry.serving.base_links import BaseLink, BaseLinks
from multiflora_platform.registry.serving.probe import probe
from multiflora_platform.web.problems import Unavailable

_VALIDATIONS_AT_ONCE = 2


@dataclass(frozen=True)
class RefusedVersion:
    """Why a version may not be served."""

    rows: list[ValidationRow]  # all findings, at least one of them an error
    evals: list[dict[str, Any]] | None = None  # with their results; None when none of them ran
    our_fault: Exception | None = None  # filled by a job that gave up for a reason that is not the adapter's


class VersionChecks:
    def __init__(
        self,
        store: ArtifactStore,
        links: BaseLinks,
        max_rank: int,
    ) -> None:
        self._store = store
        self._links = links
        self._max_rank = max_rank
        # Validation reads whole files: more at once would take memory and processor time from the requests.
        self._turns = asyncio.Semaphore(_VALIDATIONS_AT_ONCE)

    async def identify(self, folder: Path) -> AdapterManifest | None:
        """None when the files cannot be read as an adapter; `check` then says why."""
        async with self._turns:
            return await asyncio.to_thread(_identify, folder)

    async def base_of(self, folder: Path | None) -> str:
        """The digest of the base model that the files belong to; of the default one while there are none."""
        if folder is None:
            return self._links.default.base.digest
        async with self._turns:
            return (await asyncio.to_thread(choose_base, folder, self._links)).digest

    async def check(
        self, folder: Path, expected: Sequence[Eval], base_digest: str
    ) -> ValidatedVersion | RefusedVersion:
        """Everything that is looked at before a version may be served on that base model; the artifact is stored on the
        way.

        Raises Unavailable when the base model is not served, or when there are evals and no engine, and what reading
        and storing files raises.
        """
        link = self._links[base_digest]
        if not await asyncio.to_thread(folder.is_dir):
            message = "The uploaded files are gone from this server's data folder."
            return RefusedVersion(
                [ValidationRow(check="interrupted", severity="error", message=message, hint="Upload again.")]
            )
        async with self._turns:
            report = await asyncio.to_thread(validate_adapter, folder, link.base, self._max_rank)
            rows = list(report.rows)
            if not report.ok:
                return RefusedVersion(rows)
            facts = await asyncio.to_thread(read_facts, folder, link.base)
            # Only now: the engine reads adapters from the store, and what failed validation must never reach it.
            stored = await asyncio.to_thread(self._store.add, folder)
        rows.append(await probe(link.engine.probe if link.engine else None, stored.digest))
        if rows[-1].severity == "error":
            return RefusedVersion(rows)
        found, results = await _evaluate(link, stored.digest, expected)
        rows.extend(found)
        if any(row.severity == "error" for row in found):
            return RefusedVersion(rows, results)
        return ValidatedVersion(stored, facts, rows, results)


async def _evaluate(
    link: BaseLink, digest: str, expected: Sequence[Eval]
) -> tuple[list[ValidationRow], list[dict[str, Any]]]:
    if not expected:
        return [], []
    if link.answer_eval is None:
        raise Unavailable("Evals need a running engine.")
    return await evals.run(link.answer_eval, digest, expected)


def _identify(folder: Path) -> AdapterManifest | None:
    try:
        return read_manifest(folder)
    except AdapterError:
        return None
