"""What people say about a version: description, tags, origin, metrics, and what it must be able to answer.

Checks form and bounds only; runs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec
import regex

from multiflora_platform.registry.schemas.fields import AdapterFields, check_text
from multiflora_platform.web.problems import InvalidRequest

MAX_EVALS = 64
MAX_CARD_BYTES = 1 << 18
_MAX_DATASETS = 64
_MAX_PATTERN = 1000
_MAX_METRICS = 64


class Lineage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a version comes from: the version it was trained further from, the training run, its data."""

    parent_version: int | None = None  # a number of the same adapter
    training_run: str | None = None  # the client's own id of it
    datasets: list[str] = []  # the client's own names of them


class Eval(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A prompt (or chat messages); its greedy answer must contain all of `contains` and match all of `matches`."""

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    contains: list[str] = []
    matches: list[str] = []
    max_tokens: int = 64


class AskedText(Protocol):
    """What a prompt of evals asks, of a version's or of a set's."""

    @property
    def prompt(self) -> str | None: ...

    @property
    def messages(self) -> list[dict[str, Any]] | None: ...


# Raises what a prompt is refused for.
Vet = Callable[[AskedText], None]


class VersionDetails(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Comes as JSON beside the source, or as the multipart field `metadata`. `check` before use."""

    description: str = ""
    tags: list[str] = []
    lineage: Lineage = Lineage()
    evals: list[Eval] = []
    metrics: dict[str, float] = {}  # the trainer's own measurements, by name

    def check(self) -> VersionDetails:
        """Itself; raises InvalidRequest pointing at the field."""
        AdapterFields(self.description, self.tags)
        _check_lineage(self.lineage)
        _check_metrics(self.metrics)
        if len(self.evals) > MAX_EVALS:
            raise InvalidRequest(f"A version has at most {MAX_EVALS} evals.", pointer="/evals")
        for index, one in enumerate(self.evals):
            _check_eval(one, f"/evals/{index}")
        return self


NO_DETAILS = VersionDetails()


class VersionPatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may change about a version that is made; what is absent stays."""

    description: str | msgspec.UnsetType = msgspec.UNSET
    tags: list[str] | msgspec.UnsetType = msgspec.UNSET
    lineage: Lineage | msgspec.UnsetType = msgspec.UNSET
    metrics: dict[str, float] | msgspec.UnsetType = msgspec.UNSET

    def check(self) -> VersionPatch:
        """Itself; raises InvalidRequest pointing at the field."""
        AdapterFields(
            None if self.description is msgspec.UNSET else self.description,
            None if self.tags is msgspec.UNSET else self.tags,
        )
        if self.lineage is not msgspec.UNSET:
            _check_lineage(self.lineage)
        if self.metrics is not msgspec.UNSET:
            _check_metrics(self.metrics)
        return self


def read_details(document: bytes) -> VersionDetails:
    """Of a multipart field. Raises InvalidRequest."""
    try:
        return msgspec.json.decode(document, type=VersionDetails).check()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The field `metadata` is not valid: {error}.", pointer="metadata") from None


def labels(tags: list[str], lineage: Lineage) -> set[tuple[str, str]]:
    """(kind, value) pairs by which the version is found."""
    pairs = {("tag", tag) for tag in tags} | {("dataset", name) for name in lineage.datasets}
    if lineage.training_run:
        pairs.add(("run", lineage.training_run))
    if lineage.parent_version is not None:
        pairs.add(("parent", str(lineage.parent_version)))
    return pairs


def _check_lineage(lineage: Lineage) -> None:
    check_text(lineage.training_run or "", 255, "/lineage/training_run")
    if lineage.parent_version is not None and not 0 < lineage.parent_version < 2**31:
        raise InvalidRequest("A parent version is a version's number.", pointer="/lineage/parent_version")
    if len(lineage.datasets) > _MAX_DATASETS:
        raise InvalidRequest(f"At most {_MAX_DATASETS} datasets are kept.", pointer="/lineage/datasets")
    for index, dataset in enumerate(lineage.datasets):
        check_text(dataset, 255, f"/lineage/datasets/{index}")


def _check_metrics(metrics: dict[str, float]) -> None:
    if len(metrics) > _MAX_METRICS:
        raise InvalidRequest(f"At most {_MAX_METRICS} metrics are kept.", pointer="/metrics")
    for name in metrics:
        if not name.strip():
            raise InvalidRequest("A metric has a name.", pointer="/metrics")
        check_text(name, 100, "/metrics")


def _check_eval(one: Eval, pointer: str) -> None:
    if (one.prompt is None) == (one.messages is None):
        raise InvalidRequest("An eval has either a prompt or messages.", pointer=pointer)
    if not one.contains and not one.matches:
        raise InvalidRequest("An eval expects something: `contains` or `matches`.", pointer=pointer)
    if not 1 <= one.max_tokens <= 1024:
        raise InvalidRequest("max_tokens of an eval is from 1 to 1024.", pointer=f"{pointer}/max_tokens")
    for text in (one.prompt or "", *one.contains):
        check_text(text, 65_536, pointer)
    for index, pattern in enumerate(one.matches):
        _check_pattern(pattern, f"{pointer}/matches/{index}")


def _check_pattern(pattern: str, pointer: str) -> None:
    check_text(pattern, _MAX_PATTERN, pointer)
    try:
        regex.compile(pattern)
    except (regex.error, RecursionError) as error:
        raise InvalidRequest(f"{pattern[:80]!r} is no regular expression: {error}.", pointer=pointer) from None
