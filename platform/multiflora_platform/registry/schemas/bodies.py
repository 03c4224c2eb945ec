"""JSON bodies of /api: their fields, limits, and errors that point at the place. Unknown fields are refused."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType, field

from multiflora_platform.registry.schemas.fields import AdapterFields, Warmup
from multiflora_platform.registry.schemas.version_metadata import Eval, Lineage, VersionDetails
from multiflora_platform.web.json_bodies import Body
from multiflora_platform.web.problems import InvalidRequest


class NewAdapter(Body, frozen=True):
    name: str
    description: str = ""
    tags: list[str] = field(default_factory=list)
    demo_prompt: str | None = None
    warmup_prompts: list[Warmup] = field(default_factory=list)

    @property
    def fields(self) -> AdapterFields:
        return AdapterFields(self.description, self.tags, self.demo_prompt, self.warmup_prompts)


class AdapterPatch(Body, frozen=True):
    """A field that is absent stays; null clears it."""

    description: str | UnsetType | None = UNSET
    tags: list[str] | UnsetType | None = UNSET
    demo_prompt: str | UnsetType | None = UNSET
    warmup_prompts: list[Warmup] | UnsetType | None = UNSET

    @property
    def fields(self) -> AdapterFields:
        return AdapterFields(
            None if self.description is UNSET else self.description or "",
            None if self.tags is UNSET else self.tags or (),
            None if self.demo_prompt is UNSET else self.demo_prompt or "",
            None if self.warmup_prompts is UNSET else self.warmup_prompts or (),
        )


class VersionSource(Body, frozen=True):
    """Beside the source, what VersionDetails has."""

    source: str
    description: str = ""
    tags: list[str] = field(default_factory=list)
    lineage: Lineage = Lineage()
    evals: list[Eval] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def details(self) -> VersionDetails:
        """Raises InvalidRequest."""
        return VersionDetails(self.description, self.tags, self.lineage, self.evals, self.metrics).check()


class AliasTarget(Body, frozen=True):
    """Exactly one of the two."""

    version: int | UnsetType = UNSET
    split: dict[str, int] | UnsetType = UNSET

    @property
    def target(self) -> dict[str, Any]:
        if (self.version is UNSET) == (self.split is UNSET):
            raise InvalidRequest('Send either {"version": 3} or {"split": {"3": 90, "4": 10}}.', pointer="")
        return {"split": self.split} if self.version is UNSET else {"version": self.version}


class CommandTarget(Body, frozen=True):
    """None: the version that `model=name` means."""

    version: int | None = None
