"""Causal attention over the paged KV cache, for prefill, decode and any mix of both in one call.

Owns the reading of caches through block tables. Knows neither who allocates blocks nor what lies beyond the lengths.
"""

from __future__ import annotations

import struct
from dataclasses import replace

import torch
import torch.nn.functional as F

from multiflora_kernels.attention.cascade import cascade_attention_triton
from multiflora_kernels.attention.plan import CascadePlan, plan_attention
from multiflora_kernels.attention.quantised_cache import NATIVE_CODECS, block_size_of, is_quantised, read_blocks
from multiflora_kernels.attention.step import AttentionStep
from multiflora_kernels.attention.tiles import AttentionHeads
from multiflora_kernels.attention.triton import paged_attention_triton
from multiflora_kernels.runtime.native import native_function
from multiflora_kernels.runtime.triton import runs_kernels

NATIVE_HEAD_SIZES = frozenset({32, 64, 80, 96, 128, 256})


def paged_attention_reference(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    step: AttentionStep,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """q: [T, Hq, D]; caches: [blocks, Hk, block_size, D], or quantised (see quantised_cache.py); sinks: [Hq].

    Semantics: token t of sequence s (query_starts[s] <= t < query_starts[s+1]) stands at position
    p = context_lens[s] - (query_starts[s+1] - t) and sees the keys j with p - window < j <= p:
    y[t, h] = sum_j softmax_j(cap(scale * q[t, h] . k[j, g]) + slopes[h] * (j - p)) v[j, g] with kv head
    g = h // (Hq / Hk), cap(s) = softcap * tanh(s / softcap), or s without softcap, and 0 for slopes that are None. With
    sinks, each softmax goes over one score more, sinks[h], whose value is 0.
    Cache entries at or beyond context_lens are never read. Float32 inside; returns [T, Hq, D] of q's dtype.
    Paging: PagedAttention (arXiv:2309.06180); soft cap: Gemma 2 (arXiv:2408.00118); slopes: ALiBi (arXiv:2108.12409);
    sinks: gpt-oss (arXiv:2508.10925).
    """
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    starts, lengths = step.query_starts.tolist(), step.context_lens.tolist()
    for s, length in enumerate(lengths):
        begin, end = starts[s], starts[s + 1]
        if begin == end:
            continue
        keys, values = (_gather(cache, step.block_tables[s], length, *q.shape[1:]) for cache in (k_cache, v_cache))
        mask = _visible(end - begin, length, step.window, q.device)
        query, bias = q[begin:end].transpose(0, 1), _bias(step.slopes, end - begin, length)
        out[begin:end] = _attend(query, keys, values, mask, step, bias, _column(sinks)).transpose(0, 1)
    return out


def _gather(cache: torch.Tensor, table: torch.Tensor, length: int, heads: int, size: int) -> torch.Tensor:
    """The first `length` entries of one sequence: [heads, length, D], each kv head repeated for its query heads."""
    blocks = table[: -(-length // block_size_of(cache, size))].long()
    flat = read_blocks(cache, blocks, size).transpose(0, 1).flatten(1, 2)[:, :length]
    return flat.repeat_interleave(heads // cache.shape[1], dim=0)


def _visible(queries: int, length: int, window: int | None, device: torch.device) -> torch.Tensor:
    """[queries, length] bool: key j is seen by the query at position p."""
    position = torch.arange(length - queries, length, device=device).unsqueeze(1)
    key = torch.arange(length, device=device)
    seen = key <= position
    return seen if window is None else seen & (key > position - window)


def _bias(slopes: torch.Tensor | None, queries: int, length: int) -> torch.Tensor | None:
    """[Hq, queries, length]: what slopes add to the scores of a sequence's last queries."""
    if slopes is None:
        return None
    position = torch.arange(length - queries, length, device=slopes.device).unsqueeze(1)
    return slopes[:, None, None] * (torch.arange(length, device=slopes.device) - position)


def _column(sinks: torch.Tensor | None) -> torch.Tensor | None:
    """[Hq, 1, 1]: each head's sink, beside its scores."""
    return None if sinks is None else sinks[:, None, None]


def _attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor,
    step: AttentionStep,
    bias: torch.Tensor | None,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """q: [..., T, D], k, v: [..., L, D], mask, bias: [..., T, L], sinks: [..., T or 1, 1]. Returns [..., T, D] of q's
    dtype."""
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    scores = (q.to(wide) @ k.to(wide).transpose(-1, -2)) * step.scale
    if step.softcap is not None:
        scores = step.softcap * torch.tanh(scores / step.softcap)
    if bias is not None:
        scores = scores + bias
    scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is not None:
        scores = torch.cat([scores, sinks.to(wide).expand(*scores.shape[:-1], 1)], -1)
    weights = scores.softmax(-1)[..., : k.shape[-2]]
    return (weights @ v.to(wide)).to(q.dtype)


def _paged_attention_torch(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    step: AttentionStep,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """CPU without the native library: all decode rows in one padded batch, longer queries one by one."""
    out = torch.empty(q.shape, dtype=q.dtype)
    starts = step.query_starts.long()
    counts = starts[1:] - starts[:-1]
    decode = (counts == 1).nonzero().squeeze(1)
    if decode.numel():
        out[starts[decode]] = _decode_torch(q[starts[decode]], k_cache, v_cache, step, decode, sinks)
    for s in (counts > 1).nonzero().squeeze(1).tolist():
        begin, end, length = int(starts[s]), int(starts[s + 1]), int(step.context_lens[s])
        keys, values = (_gather(cache, step.block_tables[s], length, *q.shape[1:]) for cache in (k_cache, v_cache))
        mask = _visible(end - begin, length, step.window, q.device)
        query, bias = q[begin:end].transpose(0, 1), _bias(step.slopes, end - begin, length)
        result = (
            F.scaled_dot_product_attention(query[None], keys[None], values[None], mask, scale=step.scale)[0]
            if step.softcap is None and bias is None and sinks is None and keys.dtype == q.dtype
            else _attend(query, keys, values, mask, step, bias, _column(sinks))
        )
        out[begin:end] = result.transpose(0, 1)
    return out


def _decode_torch(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    step: AttentionStep,
    sequences: torch.Tensor,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """q: [D, Hq, size], one row for each of `sequences` [D]. Query heads of a kv head are its rows, so that K and V are
    not repeated."""
    lengths, tables = step.context_lens[sequences].long(), step.block_tables[sequences].long()
    block_size, heads, size = k_cache.shape[2], k_cache.shape[1], q.shape[2]
    longest = int(lengths.max())
    key = torch.arange(longest)
    seen = key < lengths.unsqueeze(1)
    # Unused table entries may hold anything; unused cache entries may hold NaN, which a weight of 0 does not cancel.
    block = tables.gather(1, (key // block_size).expand(len(lengths), -1)).masked_fill(~seen, 0)
    offset = (key % block_size).expand_as(block)
    keys = k_cache[block, :, offset].transpose(1, 2)
    values = v_cache[block, :, offset].masked_fill(~seen[:, :, None, None], 0).transpose(1, 2)
    if step.window is not None:
        seen = seen & (key >= lengths.unsqueeze(1) - step.window)
    mask, rows = seen[:, None, None, :], q.view(len(q), heads, -1, size)
    bias = None
    if step.slopes is not None:
        bias = step.slopes.view(1, heads, -1, 1) * (key - (lengths[:, None, None, None] - 1))
    # A kv head's query heads are rows here, and so are their sinks.
    column = None if sinks is None else sinks.view(1, heads, -1, 1)
    return _attend(rows, keys, values, mask, step, bias, column).view(q.shape)


_ARGUMENTS = struct.Struct("10q 11q 2f")
"""AttentionArgs of native/attention.cpp."""


def _native_fits(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor) -> bool:
    return (
        q.dtype == torch.float32
        and k_cache.dtype == v_cache.dtype
        and k_cache.dtype in NATIVE_CODECS
        and q.shape[2] in NATIVE_HEAD_SIZES
        and q.stride(2) == 1
        and k_cache.is_contiguous()
        and v_cache.is_contiguous()
    )


def _paged_attention_cuda(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, step: AttentionStep, sinks: torch.Tensor | None
) -> torch.Tensor:
    if step.plan is None:
        heads = AttentionHeads(q.shape[1], k_cache.shape[1], q.shape[2], q.dtype, is_quantised(k_cache))
        step = replace(step, plan=plan_attention(step.query_starts, step.context_lens, q.shape[0], heads, step.window))
    if step.plan is None:
        return paged_attention_reference(q, k_cache, v_cache, step, sinks)
    if isinstance(step.plan, CascadePlan):
        assert sinks is None, "parts of a cascade are merged without sinks: a decoder that has them plans none"
        return cascade_attention_triton(q, k_cache, v_cache, step)
    return paged_attention_triton(q, k_cache, v_cache, step, sinks)


def paged_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    step: AttentionStep,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """q: [T, Hq, D], may be a view of a qkv tensor; caches: [blocks, Hk, block_size, D], or quantised (see
    quantised_cache.py); step: on q's device; sinks: [Hq] float32, the layer's. Returns contiguous [T, Hq, D]. See
    `paged_attention_reference`.

    Without a plan in the step, a GPU makes one anew at each call. With `step.rounds`, a CPU that multiplies pairs of
    bfloat16 rounds queries, keys, softmax weights and values of prompts and of what a group shares to it; sums stay
    float32.
    """
    if runs_kernels(q.device):
        return _paged_attention_cuda(q, k_cache, v_cache, step, sinks)
    native = native_function("multiflora_paged_attention", "p")
    if native is not None and q.dtype != torch.float32 and is_quantised(k_cache):
        # The kernel's arithmetic is float32 all the same; queries are few beside what it reads.
        return paged_attention(q.float(), k_cache, v_cache, step, sinks).to(q.dtype)
    if native is None or not _native_fits(q, k_cache, v_cache):
        if is_quantised(k_cache):
            return paged_attention_reference(q, k_cache, v_cache, step, sinks)
        return _paged_attention_torch(q, k_cache, v_cache, step, sinks)
    starts, lengths, tables = step.query_starts, step.context_lens, step.block_tables
    groups, slopes = step.groups, step.slopes
    assert starts.dtype == lengths.dtype == tables.dtype == torch.int32, "the kernel reads int32"
    assert sinks is None or sinks.dtype == torch.float32, "the kernel reads float32"
    tokens, q_heads, size = q.shape
    out = torch.empty((tokens, q_heads, size))
    arguments = _ARGUMENTS.pack(
        out.data_ptr(), q.data_ptr(), k_cache.data_ptr(), v_cache.data_ptr(),
        starts.data_ptr(), lengths.data_ptr(), tables.data_ptr(), 0 if groups is None else groups.data_ptr(),
        0 if slopes is None else slopes.data_ptr(), 0 if sinks is None else sinks.data_ptr(),
        lengths.shape[0], q_heads, k_cache.shape[1], size, k_cache.stride(1),
        q.stride(0), q.stride(1), tables.stride(0), step.window or 0, NATIVE_CODECS[k_cache.dtype],
        step.rounds, step.scale, step.softcap or 0.0,
    )  # fmt: skip
    native(arguments)
    return out
