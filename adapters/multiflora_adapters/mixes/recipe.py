"""The identity of a mix: adapters combined into one, and how. Torch-free.

Knows no weights (mixing.py does) and no names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

Combination = Literal["cat", "linear", "ties", "dare_linear", "dare_ties", "magnitude_prune", "svd"]
"""PEFT's `combination_type`; "cat" is the sum of the deltas itself, the others make one of lower rank."""
PRUNING: frozenset[Combination] = frozenset({"ties", "dare_linear", "dare_ties", "magnitude_prune"})
"""They keep a share of each part's values: `density`."""
RANDOM: frozenset[Combination] = frozenset({"dare_linear", "dare_ties"})
"""They draw which values they keep: `seed`."""


class MixPart(NamedTuple):
    """One summand of a mix, as the gateway resolved it from the client's recipe."""

    digest: str  # of an adapter version
    weight: float  # finite, not zero


@dataclass(frozen=True)
class Mix:
    """What a mix is made of. parts: at least one, each digest once."""

    parts: tuple[MixPart, ...]
    combination: Combination = "cat"
    density: float = 1.0
    """Above 0 and at most 1; 1 where nothing is pruned."""
    seed: int = 0
    """0 where nothing is drawn."""

    def __post_init__(self) -> None:
        parts = self.parts
        assert 0 < len(parts) == len({part.digest for part in parts}), "the front end has checked the parts"


def mix_digest(mix: Mix) -> str:
    """The mix's recipe in canonical form, from which an engine can make it knowing nothing else.

    The sum of one part with weight 1 is that part.
    """
    if mix.combination == "cat" and len(mix.parts) == 1 and mix.parts[0].weight == 1.0:
        return mix.parts[0].digest
    # What is drawn depends on the order of the parts.
    parts = mix.parts if mix.combination in RANDOM else sorted(mix.parts)
    summands = _summands(parts)
    if mix.combination == "cat":
        return summands
    return f"{summands};{mix.combination};{float(mix.density)!r};{mix.seed}"


def mixed_kv_digest(mix: Mix, kv_digests: Mapping[str, str | None]) -> str | None:
    """What the KV of the mix is known by. kv_digests: of its parts, by their digests; None: the base's.

    A sum is that of the parts that reach the KV; of another combination all is taken to matter if any part does.
    """
    reaching = [(kv, part.weight) for part in mix.parts if (kv := kv_digests[part.digest]) is not None]
    if not reaching:
        return None
    if mix.combination != "cat":
        return mix_digest(mix)
    if len(reaching) == 1 and reaching[0][1] == 1.0:
        return reaching[0][0]
    return _summands(sorted(reaching))


def read_mix(digest: str) -> Mix | None:
    """The mix of a digest; None for the digest of one adapter version."""
    if "*" not in digest:
        return None
    summands, *how = digest.split(";")
    pairs = [text.split("*") for text in summands.split(",")]
    parts = tuple(MixPart(part, float(weight)) for part, weight in pairs)
    if not how:
        return Mix(parts)
    combination, density, seed = how
    return Mix(parts, cast(Combination, combination), float(density), int(seed))


def versions_in(digest: str | None) -> tuple[str, ...]:
    """Digests of the adapter versions that one stands for: itself, or a mix's parts. None, the base's, has none."""
    if digest is None:
        return ()
    mix = read_mix(digest)
    return (digest,) if mix is None else tuple(part.digest for part in mix.parts)


def _summands(parts: Iterable[tuple[str, float]]) -> str:
    return ",".join(f"{digest}*{float(weight)!r}" for digest, weight in parts)
