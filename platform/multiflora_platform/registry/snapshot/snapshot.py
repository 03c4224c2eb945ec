"""What every name means right now: an immutable picture of the live adapters, swapped whole after each commit.

Knows no database: entries are made in loader.py. A request asks this, never the database.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from multiflora_adapters.kv_reach import KvReach
from multiflora_adapters.mixes.recipe import mixed_kv_digest, read_mix
from multiflora_platform.registry.schemas.fields import Warmup
from multiflora_platform.registry.snapshot.traffic_split import BUCKETS, bucket

DEFAULT = "default"


@dataclass(frozen=True)
class AdapterShape:
    """What of a version's content a request has to know. The loader fills it from the version's manifest and facts."""

    rank: int = 0  # the largest of its tensors
    is_dora: bool = False
    kv_reach: KvReach | None = None  # None: the version was validated before that was asked


@dataclass(frozen=True)
class RolloutEntry:
    """A running rollout, as the loader reads its row."""

    id: int
    adapter: str  # the adapter's name
    stable: int  # the version that the alias had when the rollout began
    candidate: int  # the version that the client wants to try
    percent: int  # of the alias's users that get the candidate
    shadow_percent: int  # of the other users' requests that run on the candidate, too
    bounds: Mapping[str, Any]  # the client's, by the names of schemas/rollouts.BOUNDS


@dataclass(frozen=True)
class SplitEntry:
    """An alias that an operator has split and no rollout watches, as it is until it moves."""

    adapter: str  # the adapter's name
    alias: str
    revision: int  # the alias's


@dataclass(frozen=True)
class Resolved:
    """What `model` means for one request; made by AdapterEntry.resolve, read by the gateway."""

    name: str
    version: int
    digest: str  # what the engine is asked for
    alias: str | None  # the alias that was followed; None when the client named a version
    shape: AdapterShape = AdapterShape()
    owner: str | None = None  # the adapter's tenant; None: the admins
    rollout: RolloutEntry | None = None  # of the alias; the gateway reports the request's outcome to it
    base_digest: str = ""  # of the base model that the version belongs to
    split: SplitEntry | None = None  # of the alias; the gateway reports the request's outcome to it, too

    @property
    def kv_reach(self) -> KvReach:
        """What the KV of its requests depends on."""
        return self.shape.kv_reach or KvReach(self.digest)


@dataclass(frozen=True)
class ServedAdapter:
    """An adapter that `model=name` reaches; made from its entry once for each snapshot, for the lists of models."""

    name: str
    aliases: Mapping[str, int]  # the version of each (of its largest share), `default` among them
    version: int  # of `default` (of its largest share, if it is split)
    digest: str  # of that version
    created: int  # Unix seconds
    description: str
    demo_prompt: str | None
    owner: str | None = None
    base_digest: str = ""  # of the base model that this version belongs to


def alias_etag(revision: int, protected: bool) -> str:
    """A revision is never used twice, so an alias that was deleted and made anew is another one."""
    return f'"{revision}{"-protected" if protected else ""}"'


@dataclass(frozen=True)
class AliasEntry:
    """One alias, as the loader reads its row; rows/aliases.py wrote what it holds."""

    name: str
    target: Mapping[str, Any]  # {"version": n} or {"split": {"n": percent}}, as the client set it
    layout: tuple[int, ...]  # the version of each of 100 buckets of users
    revision: int  # id of the move that set the target; never used twice
    salt: str  # the loader's: adapter and alias, so that a user's bucket differs from alias to alias
    protected: bool = False  # only admins move it
    rollout: RolloutEntry | None = None  # the one that runs on it
    previous: Mapping[str, Any] | None = None  # where a rollback goes; None before the first move

    @property
    def etag(self) -> str:
        return alias_etag(self.revision, self.protected)

    @cached_property
    def main_version(self) -> int:
        return max(set(self.layout), key=lambda version: (self.layout.count(version), -version))

    @cached_property
    def _is_split(self) -> bool:
        return len(set(self.layout)) > 1

    def split_of(self, adapter: str) -> SplitEntry | None:
        """adapter: its adapter's name. None where it means one version, or a rollout watches it."""
        return SplitEntry(adapter, self.name, self.revision) if self._is_split and self.rollout is None else None

    def version_for(self, user: str | None) -> int:
        """Sticky by user; without one, drawn anew."""
        if not self._is_split:
            return self.layout[0]
        return self.layout[random.randrange(BUCKETS) if user is None else bucket(self.salt, user)]


@dataclass(frozen=True)
class AdapterEntry:
    """One live adapter, read from the database by loader.py after each change and never altered."""

    id: int  # the row's; an adapter that was deleted and made anew has another
    name: str
    description: str
    tags: tuple[str, ...]
    demo_prompt: str | None  # the playground shows it
    warmup_prompts: tuple[Warmup, ...]  # run before traffic moves to a version
    owner: str | None  # the tenant that may change it; None: admins only
    created_at: datetime
    updated_at: datetime  # of the description and the like; versions and aliases do not count
    aliases: Mapping[str, AliasEntry]  # by name
    digests: Mapping[int, str]  # of the versions whose base model is served, by number
    bases: Mapping[int, str]  # digests of these versions' base models
    shapes: Mapping[int, AdapterShape]  # of the same versions
    # Of the other versions, by number: the state, or that it was made for another base model.
    unserved: Mapping[int, str] = field(default_factory=dict)
    # Of those of them whose files were read: an eval may have brought a version to the device that is rejected now.
    unserved_digests: Mapping[int, str] = field(default_factory=dict)

    def has(self, digest: str, base_digest: str) -> bool:
        """Whether a version of just this content, for this base model, is served."""
        return any(digest == one and self.bases[number] == base_digest for number, one in self.digests.items())

    def resolve(self, selector: str, user: str | None) -> Resolved | None:
        """selector: an alias or a version's number without leading zeros."""
        if selector.isascii() and selector.isdecimal():
            number = int(selector) if len(selector) < 10 and selector[0] != "0" else 0
            alias = rollout = split = None
        else:
            entry = self.aliases.get(selector)
            if entry is None:
                return None
            number, alias, rollout = entry.version_for(user), selector, entry.rollout
            split = entry.split_of(self.name)
        digest = self.digests.get(number)
        if not digest:
            return None
        shape, base = self.shapes[number], self.bases[number]
        return Resolved(self.name, number, digest, alias, shape, self.owner, rollout, base, split)


@dataclass(frozen=True)
class Snapshot:
    """All live adapters by name."""

    adapters: Mapping[str, AdapterEntry]

    def resolve(self, model: str, user: str | None) -> Resolved | None:
        name, at, selector = model.partition("@")
        adapter = self.adapters.get(name)
        if adapter is None or (at and not selector):
            return None
        return adapter.resolve(selector or DEFAULT, user)

    def replaced(self, *entries: AdapterEntry) -> Snapshot:
        return Snapshot({**self.adapters, **{entry.name: entry for entry in entries}})

    def without(self, name: str) -> Snapshot:
        return Snapshot({key: entry for key, entry in self.adapters.items() if key != name})

    @cached_property
    def sorted_names(self) -> list[str]:
        return sorted(self.adapters)

    def digests_on(self, base_digest: str) -> frozenset[str]:
        """Of every version that is served on this base model."""
        return frozenset(
            digest
            for entry in self.adapters.values()
            for number, digest in entry.digests.items()
            if entry.bases[number] == base_digest
        )

    @cached_property
    def versions_by_digest(self) -> Mapping[str, Sequence[str]]:
        """The versions of that digest as `name@number`, in order. A rejected or archived one is named where its adapter
        has no version of that content to serve."""
        versions: dict[str, list[str]] = {}
        for name in self.sorted_names:
            entry = self.adapters[name]
            served = set(entry.digests.values())
            others = {number: digest for number, digest in entry.unserved_digests.items() if digest not in served}
            for number, digest in sorted({**entry.digests, **others}.items()):
                versions.setdefault(digest, []).append(f"{name}@{number}")
        return versions

    def kv_reach(self, digest: str | None) -> KvReach:
        """What the KV of requests for this digest depends on: a version's, a mix's, or (None) the base's."""
        mix = read_mix(digest) if digest else None
        if digest is None or mix is None:
            return self._kv_reaches.get(digest or "", KvReach(digest))
        return KvReach(mixed_kv_digest(mix, {one.digest: self.kv_reach(one.digest).digest for one in mix.parts}))

    @cached_property
    def _kv_reaches(self) -> Mapping[str, KvReach]:
        """Of versions that can be served, by digest, as far as that was kept."""
        return {
            digest: reach
            for entry in self.adapters.values()
            for number, digest in entry.digests.items()
            if (reach := entry.shapes[number].kv_reach) is not None
        }

    def ranks_above(self, limit: int) -> dict[str, int]:
        """Rank of each version that can be served and has a higher one, by `name@number`."""
        return {
            f"{name}@{number}": shape.rank
            for name in self.sorted_names
            for number, shape in sorted(self.adapters[name].shapes.items())
            if shape.rank > limit
        }

    @cached_property
    def served(self) -> list[ServedAdapter]:
        return [row for name in self.sorted_names if (row := _served(self.adapters[name]))]


def _served(entry: AdapterEntry) -> ServedAdapter | None:
    alias = entry.aliases.get(DEFAULT)
    digest = entry.digests.get(alias.main_version) if alias else None
    if alias is None or digest is None:
        return None
    created = int(entry.created_at.timestamp())
    return ServedAdapter(
        entry.name,
        {alias.name: number for alias in entry.aliases.values() if (number := alias.main_version) in entry.digests},
        alias.main_version,
        digest,
        created,
        entry.description,
        entry.demo_prompt,
        entry.owner,
        entry.bases[alias.main_version],
    )
