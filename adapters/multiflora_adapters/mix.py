"""The identity of a mix: a weighted sum of adapters that is served as one adapter. Torch-free.

Knows no weights (mixing.py does) and no names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class MixPart(NamedTuple):
    """One summand of a mix, as the gateway resolved it from the client's recipe."""

    digest: str  # of an adapter version
    weight: float  # finite, not zero


def mix_digest(parts: Sequence[MixPart]) -> str:
    """The mix's recipe in canonical order, from which an engine can make it knowing nothing else.

    A mix of one part with weight 1 is that part. parts: at least one, each digest once.
    """
    assert 0 < len(parts) == len({part.digest for part in parts}), "the front end has checked the parts"
    if len(parts) == 1 and parts[0].weight == 1.0:
        return parts[0].digest
    return ",".join(f"{digest}*{float(weight)!r}" for digest, weight in sorted(parts))


def mix_parts(digest: str) -> list[MixPart] | None:
    """The parts of a mix's digest; None for the digest of one adapter version."""
    if "*" not in digest:
        return None
    pairs = [text.split("*") for text in digest.split(",")]
    return [MixPart(part, float(weight)) for part, weight in pairs]
