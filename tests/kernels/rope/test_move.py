"""A key that is moved is the key of its new place, in every form of cache; its value is the same to the bit."""

from __future__ import annotations

import pytest
import torch

from multiflora_kernels.attention.quantised_cache import cache_shape, codes_and_scales, is_quantised, read_blocks
from multiflora_kernels.rope.move import KvMoves, move_kv, turn_by
from multiflora_kernels.rope.rope_and_kv import rope_and_write_kv_reference
from multiflora_kernels.rope.step import RopeStep

BLOCK, HEADS, SIZE, COUNT = 4, 2, 32, 9


def tables(rotary: int, factor: float) -> tuple[torch.Tensor, torch.Tensor]:
    angles = torch.outer(torch.arange(64.0), 100.0 ** -torch.arange(0, 1, 2 / rotary))
    return angles.cos() * factor, angles.sin() * factor


def written(dtype: torch.dtype, kv: tuple[torch.Tensor, torch.Tensor], positions: torch.Tensor, rope: object) -> object:
    caches = [torch.zeros(cache_shape(12, HEADS, BLOCK, SIZE, dtype), dtype=dtype) for _ in range(2)]
    k, v = (part.clone() for part in kv)
    rope_and_write_kv_reference(k.clone(), k, v, caches[0], caches[1], RopeStep(*rope, positions, positions))  # type: ignore[misc]
    return caches


@pytest.mark.parametrize(("rotary", "factor"), [(SIZE, 1.0), (16, 1.0), (SIZE, 1.3)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.bfloat16, 4e-2), (torch.int8, 6e-2), (torch.float8_e4m3fn, 3e-1)],
)
def test_a_moved_token_is_as_if_written_there(rotary: int, factor: float, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(1)
    kv = torch.randn(COUNT, HEADS, SIZE), torch.randn(COUNT, HEADS, SIZE)
    if dtype is torch.bfloat16:
        kv = kv[0].to(dtype), kv[1].to(dtype)
    rope = tables(rotary, factor)
    source, distance = torch.arange(COUNT) + 3, 17
    caches = written(dtype, kv, source, rope)
    expected = written(dtype, kv, source + distance, rope)
    turn = turn_by(torch.full((COUNT,), distance), *rope)
    move_kv(*caches, KvMoves(source, source + distance, SIZE), turn)  # type: ignore[misc]
    blocks = torch.arange(5, 8)
    found, right = (read_blocks(pair[0], blocks, SIZE).float() for pair in (caches, expected))  # type: ignore[index]
    assert (found - right).abs().max() < tolerance
    values = [codes_and_scales(pair[1], SIZE) if is_quantised(pair[1]) else (pair[1],) for pair in (caches, expected)]  # type: ignore[index]
    for one, other in zip(*values, strict=True):
        assert torch.equal(one[5:8].float(), other[5:8].float())
