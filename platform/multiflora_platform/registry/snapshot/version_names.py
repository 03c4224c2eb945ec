"""What people call a digest that the engine holds: the versions that have it, or a mix's recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from multiflora_adapters.mixes.recipe import read_mix
from multiflora_platform.registry.snapshot.snapshot import Snapshot


class DigestNames(NamedTuple):
    """Both empty for the base model, and for what is registered no longer."""

    adapters: Sequence[str]  # that have a version of this content, each once; none of a mix
    versions: Sequence[str]  # `name@number`, all of this content; of a mix, its recipe as one text


def names_of(snapshot: Snapshot, digest: str | None) -> DigestNames:
    """digest: of a version or of a mix; None for the base model."""
    mix = read_mix(digest) if digest else None
    if mix is not None:
        recipe = " + ".join(f"{part.weight:g} × {_part(snapshot, part.digest)}" for part in mix.parts)
        return DigestNames((), (recipe if mix.combination == "cat" else f"{mix.combination}: {recipe}",))
    versions = snapshot.versions_by_digest.get(digest or "", ())
    return DigestNames(list(dict.fromkeys(version.partition("@")[0] for version in versions)), versions)


def _part(snapshot: Snapshot, digest: str) -> str:
    names = snapshot.versions_by_digest.get(digest, (digest[:12],))
    return names[0] if len(names) == 1 else f"({', '.join(names)})"
