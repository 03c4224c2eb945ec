"""How an alias divides its users among versions: 100 buckets, one version number each.

Knows nothing of adapters or databases. A new division is laid out from the one before it: a version with a falling
share gives up its highest buckets, one with a growing share takes freed ones and keeps all it had, so that raising a
share keeps every user who was already in it, however many versions there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import blake2b

BUCKETS = 100


def lay_out(shares: Mapping[int, int], previous: Sequence[int] = ()) -> list[int]:
    """shares: version -> percent, summing to 100. previous: the layout before. Returns 100 version numbers."""
    wanted = dict(sorted(shares.items()))
    layout: list[int | None] = []
    kept: Counter[int] = Counter()
    for version in previous:
        stays = kept[version] < wanted.get(version, 0)
        kept[version] += stays
        layout.append(version if stays else None)
    takers = iter([version for version, share in wanted.items() for _ in range(share - kept[version])])
    return [next(takers) if version is None else version for version in layout or [None] * BUCKETS]


def bucket(salt: str, user: str) -> int:
    """The user's place in [0, 100), the same for ever. salt: so that two aliases do not divide users alike."""
    key = f"{salt}\0{user}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(key, digest_size=8).digest()) % BUCKETS
