"""Causal attention over the paged KV cache, for prefill, decode and any mix of both in one call.

Owns the reading of caches through block tables. Knows neither who allocates blocks nor what lies beyond the lengths.
"""

from __future__ import annotations

import struct

import torch
import torch.nn.functional as F

from multiflora_kernels.attention.cascade import CascadePlan, cascade_attention_triton
from multiflora_kernels.attention.plan import AttentionPlan, plan_attention
from multiflora_kernels.attention.tiles import AttentionHeads
from multiflora_kernels.attention.triton import paged_attention_triton
from multiflora_kernels.runtime.native import native_function

NATIVE_HEAD_SIZES = frozenset({32, 64, 80, 96, 128, 256})


def paged_attention_reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    query_starts: torch.Tensor,
    context_lens: torch.Tensor,
    block_tables: torch.Tensor,
    scale: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """q: [T, Hq, D]; caches: [blocks, Hk, block_size, D].

    query_starts: [S+1], context_lens: [S], block_tables: [S, B], all int32; context_lens include this step's tokens.

    Semantics: token t of sequence s (query_starts[s] <= t < query_starts[s+1]) stands at position
    p = context_lens[s] - (query_starts[s+1] - t) and sees the keys j with p - sliding_window < j <= p:
    y[t, h] = sum_j softmax_j(cap(scale * q[t, h] . k[j, g])) v[j, g] with kv head g = h // (Hq / Hk) and
    cap(s) = softcap * tanh(s / softcap), or s without softcap.
    Cache entries at or beyond context_lens are never read. Float32 inside; returns [T, Hq, D] of q's dtype.
    Paging: PagedAttention (arXiv:2309.06180); soft cap: Gemma 2 (arXiv:2408.00118).
    """
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    starts, lengths = query_starts.tolist(), context_lens.tolist()
    for s, length in enumerate(lengths):
        begin, end = starts[s], starts[s + 1]
        if begin == end:
            continue
        keys, values = (_gather(cache, block_tables[s], length, q.shape[1]) for cache in (k_cache, v_cache))
        mask = _visible(end - begin, length, sliding_window, q.device)
        query = q[begin:end].transpose(0, 1)
        out[begin:end] = _attend(query, keys, values, mask, scale, softcap).transpose(0, 1)
    return out


def _gather(cache: torch.Tensor, table: torch.Tensor, length: int, heads: int) -> torch.Tensor:
    """The first `length` entries of one sequence: [heads, length, D], each kv head repeated for its query heads."""
    blocks = table[: -(-length // cache.shape[2])].long()
    flat = cache[blocks].transpose(0, 1).flatten(1, 2)[:, :length]
    return flat.repeat_interleave(heads // cache.shape[1], dim=0)


def _visible(queries: int, length: int, window: int | None, device: torch.device) -> torch.Tensor:
    """[queries, length] bool: key j is seen by the query at position p."""
    position = torch.arange(length - queries, length, device=device).unsqueeze(1)
    key = torch.arange(length, device=device)
    seen = key <= position
    return seen if window is None else seen & (key > position - window)


def _attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor, scale: float, softcap: float | None
) -> torch.Tensor:
    """q: [..., T, D], k, v: [..., L, D], mask: [..., T, L]. Returns [..., T, D] of q's dtype."""
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    scores = (q.to(wide) @ k.to(wide).transpose(-1, -2)) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    return (weights @ v.to(wide)).to(q.dtype)


def _paged_attention_torch(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    query_starts: torch.Tensor,
    context_lens: torch.Tensor,
    block_tables: torch.Tensor,
    scale: float,
    sliding_window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """CPU without the native library: all decode rows in one padded batch, longer queries one by one."""
    out = torch.empty(q.shape, dtype=q.dtype)
    starts = query_starts.long()
    counts = starts[1:] - starts[:-1]
    decode = (counts == 1).nonzero().squeeze(1)
    if decode.numel():
        lengths, tables = context_lens[decode].long(), block_tables[decode].long()
        queries = q[starts[decode]]
        out[starts[decode]] = _decode_torch(queries, k_cache, v_cache, lengths, tables, scale, sliding_window, softcap)
    for s in (counts > 1).nonzero().squeeze(1).tolist():
        begin, end, length = int(starts[s]), int(starts[s + 1]), int(context_lens[s])
        keys, values = (_gather(cache, block_tables[s], length, q.shape[1]) for cache in (k_cache, v_cache))
        mask = _visible(end - begin, length, sliding_window, q.device)
        query = q[begin:end].transpose(0, 1)
        result = (
            F.scaled_dot_product_attention(query[None], keys[None], values[None], mask, scale=scale)[0]
            if softcap is None
            else _attend(query, keys, values, mask, scale, softcap)
        )
        out[begin:end] = result.transpose(0, 1)
    return out


def _decode_torch(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    lengths: torch.Tensor,
    tables: torch.Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """q: [S, Hq, D], one row per sequence. Query heads of a kv head are its rows, so K and V are not repeated."""
    block_size, heads, size = k_cache.shape[2], k_cache.shape[1], q.shape[2]
    longest = int(lengths.max())
    key = torch.arange(longest)
    seen = key < lengths.unsqueeze(1)
    # Unused table entries may hold anything; unused cache entries may hold NaN, which a weight of 0 does not cancel.
    block = tables.gather(1, (key // block_size).expand(len(lengths), -1)).masked_fill(~seen, 0)
    offset = (key % block_size).expand_as(block)
    keys = k_cache[block, :, offset].transpose(1, 2)
    values = v_cache[block, :, offset].masked_fill(~seen[:, :, None, None], 0).transpose(1, 2)
    if window is not None:
        seen = seen & (key >= lengths.unsqueeze(1) - window)
    mask = seen[:, None, None, :]
    return _attend(q.view(len(q), heads, -1, size), keys, values, mask, scale, softcap).view(q.shape)


_ARGUMENTS = struct.Struct("7q 9q 2f")
"""AttentionArgs of native/attention.cpp."""


def _native_fits(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor) -> bool:
    return (
        q.dtype == k_cache.dtype == v_cache.dtype == torch.float32
        and q.shape[2] in NATIVE_HEAD_SIZES
        and q.stride(2) == 1
        and k_cache.is_contiguous()
        and v_cache.is_contiguous()
    )


def _paged_attention_cuda(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    query_starts: torch.Tensor,
    context_lens: torch.Tensor,
    block_tables: torch.Tensor,
    scale: float,
    sliding_window: int | None,
    softcap: float | None,
    plan: AttentionPlan | CascadePlan | None,
) -> torch.Tensor:
    if plan is None:
        heads = AttentionHeads(q.shape[1], k_cache.shape[1], q.shape[2], q.dtype)
        plan = plan_attention(query_starts, context_lens, q.shape[0], heads, sliding_window)
    if plan is None:
        return paged_attention_reference(
            q, k_cache, v_cache, query_starts, context_lens, block_tables, scale, sliding_window, softcap
        )
    if isinstance(plan, CascadePlan):
        assert sliding_window is None, "groups share keys that a window may hide"
        return cascade_attention_triton(q, k_cache, v_cache, block_tables, scale, softcap, plan)
    assert plan.window == sliding_window, "a plan for layers of this window"
    return paged_attention_triton(q, k_cache, v_cache, block_tables, scale, softcap, plan)


def paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    query_starts: torch.Tensor,
    context_lens: torch.Tensor,
    block_tables: torch.Tensor,
    scale: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    plan: AttentionPlan | CascadePlan | None = None,
) -> torch.Tensor:
    """q: [T, Hq, D], may be a view of a qkv tensor. Returns contiguous [T, Hq, D]. See `paged_attention_reference`.

    query_starts, context_lens and block_tables are contiguous int32 on q's device; block ids must lie inside the cache.
    plan: `plan_attention` of this step and window, for all its layers, or `plan_cascade` of it; without one, a GPU
    makes one anew at each call.
    """
    if q.device.type != "cpu":
        return _paged_attention_cuda(
            q, k_cache, v_cache, query_starts, context_lens, block_tables, scale, sliding_window, softcap, plan
        )
    native = native_function("multiflora_paged_attention", "p")
    if native is None or not _native_fits(q, k_cache, v_cache):
        return _paged_attention_torch(
            q, k_cache, v_cache, query_starts, context_lens, block_tables, scale, sliding_window, softcap
        )
    assert query_starts.dtype == context_lens.dtype == block_tables.dtype == torch.int32, "the kernel reads int32"
    tokens, q_heads, size = q.shape
    out = torch.empty((tokens, q_heads, size))
    arguments = _ARGUMENTS.pack(
        out.data_ptr(), q.data_ptr(), k_cache.data_ptr(), v_cache.data_ptr(),
        query_starts.data_ptr(), context_lens.data_ptr(), block_tables.data_ptr(),
        context_lens.shape[0], q_heads, k_cache.shape[1], size, k_cache.shape[2],
        q.stride(0), q.stride(1), block_tables.stride(0), sliding_window or 0, scale, softcap or 0.0,
    )  # fmt: skip
    native(arguments)
    return out
