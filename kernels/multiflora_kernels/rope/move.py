"""Copies of cached keys and values for tokens that stand elsewhere: keys are turned by the distance.

Owns that rotation; does not know why tokens are moved. Plain tensor operations on every device: a document is moved
once, where computing it would read all weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from multiflora_kernels.attention.quantised_cache import block_size_of, codes_and_scales, is_quantised, write_tokens
from multiflora_kernels.rope.rope_and_kv import rotate_


@dataclass(frozen=True)
class KvMoves:
    """What all layers share of the copies that are made at once."""

    sources: torch.Tensor  # [N] int64, slots as in RopeStep
    targets: torch.Tensor  # [N] int64, the same; none of them is a source
    head_size: int


@dataclass(frozen=True)
class Turn:
    """Of the keys of all layers that share a rotation. cos, sin: [N, 1, R/2] float32."""

    cos: torch.Tensor
    sin: torch.Tensor


def turn_by(distances: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Turn:
    """distances: [N] int64, by how many positions each token stands further back at its target. cos, sin: [P, R/2]
    float32 of the rotation. A factor that the tables hold is in the cached keys already, once."""
    # The first row is that of no rotation: the factor alone.
    return Turn((cos[distances] / cos[0]).unsqueeze(1), (sin[distances] / cos[0]).unsqueeze(1))


def move_kv(k_cache: torch.Tensor, v_cache: torch.Tensor, moves: KvMoves, turn: Turn) -> None:
    """Caches: as `rope_and_write_kv` writes them. turn: of the layer's rotation.

    Semantics: k[target] = rotation(distance) @ k[source], so that a key rotated for position p becomes that of
    p + distance; v[target] = v[source].
    """
    size = block_size_of(k_cache, moves.head_size)
    block, offset = moves.sources // size, moves.sources % size
    keys = _read(k_cache, block, offset, moves.head_size)
    rotate_(keys, turn.cos, turn.sin)
    write_tokens(k_cache, moves.targets, keys)
    _copy(v_cache, block, offset, moves)


def _read(cache: torch.Tensor, block: torch.Tensor, offset: torch.Tensor, head_size: int) -> torch.Tensor:
    """[N, Hk, D], a copy; of a quantised cache in float32."""
    if not is_quantised(cache):
        return cache[block, :, offset]
    codes, scales = codes_and_scales(cache, head_size)
    return codes[block, :, offset].float() * scales[block, :, offset].float().unsqueeze(-1)


def _copy(cache: torch.Tensor, block: torch.Tensor, offset: torch.Tensor, moves: KvMoves) -> None:
    """Values as they are, codes and scales of quantised ones."""
    size = block_size_of(cache, moves.head_size)
    parts = codes_and_scales(cache, moves.head_size) if is_quantised(cache) else (cache,)
    for part in parts:
        part[moves.targets // size, :, moves.targets % size] = part[block, :, offset]
