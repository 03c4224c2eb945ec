"""In which order the engine stacks rows of queries, keys and values that checkpoints have in another. Torch-free."""

from __future__ import annotations

import functools


def head_order(head_dim: int, turned: int) -> tuple[int, ...]:
    """Dimension i of a head as served is dimension order[i] of the checkpoint's. turned: how many leading ones turn as
    neighbours there."""
    return (*range(0, turned, 2), *range(1, turned, 2), *range(turned, head_dim))


@functools.cache
def qkv_order(num_heads: int, num_kv_heads: int, places: tuple[int, ...], is_grouped: bool) -> tuple[int, ...]:
    """Row i of q, k and v as the engine stacks them is row order[i] of the checkpoint's linears, stacked. places: the
    order of the dimensions of a query or key head."""
    head_dim, share = len(places), num_heads // num_kv_heads
    if is_grouped:
        groups = range(num_kv_heads)
        heads = [group * (share + 2) + i for group in groups for i in range(share)]
        heads += [group * (share + 2) + share for group in groups]
        values = [group * (share + 2) + share + 1 for group in groups]
    else:
        heads = list(range(num_heads + num_kv_heads))
        values = [num_heads + num_kv_heads + group for group in range(num_kv_heads)]
    rotated = [head * head_dim + place for head in heads for place in places]
    return (*rotated, *(head * head_dim + place for head in values for place in range(head_dim)))


@functools.cache
def own_rows(order: tuple[int, ...], first: int, end: int) -> tuple[int, ...]:
    """The part of an order that one of several stacked linears has, counted within it."""
    return tuple(row - first for row in order[first:end])
