"""Blocks, their contents, and a disk tier that another process opens after this one was killed."""

import hashlib
from pathlib import Path

from multiflora_engine.offload.disk_tier import DiskTier
from multiflora_engine.offload.tier_slots import KeptBlock

BLOCK_BYTES = 600


def hash_of(name: object) -> bytes:
    return hashlib.blake2b(str(name).encode(), digest_size=32).digest()


def kept(name: object, owner: str = "acme", parent: object = "root", depth: int = 0, uses: int = 1) -> KeptBlock:
    return KeptBlock(hash_of(name), owner.ljust(16).encode(), hash_of(parent)[:8], depth, uses=uses)


def content_of(name: object) -> memoryview:
    return memoryview((hash_of(name) * 20)[:BLOCK_BYTES])


def at_once() -> None:
    pass


class Disk:
    """A tier in one folder, which can be opened again as another process would after this one was killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 1_000.0
        self.tier: DiskTier | None = None

    def open(self, num_slots: int = 8) -> DiskTier:
        """Nothing is closed first: a killed process writes nothing more."""
        self.tier = DiskTier(self.folder, BLOCK_BYTES, num_slots, clock=lambda: self.now)
        return self.tier


def read(tier: DiskTier, name: object) -> bytes | None:
    """What the tier has of the block; None where it has nothing that it vouches for."""
    into = bytearray(BLOCK_BYTES)
    return bytes(into) if tier.read(hash_of(name), memoryview(into), at_once) else None


def write(tier: DiskTier, name: object, limit: int | None = None, **known: object) -> bool:
    return tier.write(kept(name, **known), content_of(name), limit, at_once)  # type: ignore[arg-type]
