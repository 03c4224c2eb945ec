"""The ops that work row by row at the shapes of Llama 3.1 8B: norms, RoPE with the KV write, activations, sampling.

A call does the op once for each of several copies of its data, as the layers of a step do, so that the copies together
are larger than the card's L2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from gpu.measure import Probe, Row
from multiflora_kernels.activation import silu_and_mul
from multiflora_kernels.rms_norm import add_rms_norm
from multiflora_kernels.rope.rope_and_kv import rope_and_write_kv
from multiflora_kernels.rope.step import RopeStep
from multiflora_kernels.sampling import ops as sampling

BLOCK_SIZE = 16
_BEYOND_L2 = 256 << 20
_MOST_COPIES = 32


@dataclass(frozen=True)
class Widths:
    """Of a model. size: of a head."""

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    size: int
    vocab: int
    dtype: torch.dtype


LLAMA = Widths(4096, 14336, 32, 8, 128, 128256, torch.bfloat16)


@dataclass(frozen=True)
class Cut:
    """top_k None: off."""

    name: str
    top_k: int | None
    top_p: float


CUTS = (Cut("uncut", None, 1.0), Cut("top-p 0.95", None, 0.95), Cut("top-k 50", 50, 1.0), Cut("both", 50, 0.95))


def layer_probes(
    device: torch.device, widths: Widths = LLAMA, tokens: Sequence[int] = (1, 32, 128, 256, 8192)
) -> Iterator[Probe]:
    """What stands between a layer's matrix products."""
    for count in tokens:
        for name, make in (("add_rms_norm", _add_rms_norm), ("rope_and_write_kv", _rope), ("silu_and_mul", _silu)):
            yield Probe(f"{name}, T={count}", partial(make, device, widths, count))


def sampling_probes(
    device: torch.device, widths: Widths = LLAMA, batches: Sequence[int] = (1, 32, 128, 256), num_top: int = 20
) -> Iterator[Probe]:
    """Floors: each logit is read once, whatever is done with it."""
    for batch in batches:
        logits = partial(_logits, batch, widths, device)
        yield Probe(f"greedy, L={batch}", partial(_greedy, logits))
        yield Probe(f"logprobs, top {num_top}, L={batch}", partial(_logprobs, logits, num_top))
        for cut in CUTS:
            yield Probe(f"sample, {cut.name}, L={batch}", partial(_sample, logits, cut))


def _logits(batch: int, widths: Widths, device: torch.device) -> torch.Tensor:
    return (torch.randn(batch, widths.vocab, device=device) * 3).to(widths.dtype)


def _copies(num_bytes: int, device: torch.device) -> int:
    return max(1, min(_MOST_COPIES, _BEYOND_L2 // num_bytes)) if device.type == "cuda" else 1


def _repeated(name: str, shape: str, num_bytes: int, calls: Sequence[Callable[[], object]]) -> Row:
    return Row(name, f"{shape} x{len(calls)}", float(num_bytes * len(calls)), 0.0, lambda: [call() for call in calls])


def _add_rms_norm(device: torch.device, widths: Widths, tokens: int) -> Row:
    """Two rows read, two written, and the weight."""
    row_bytes = widths.hidden * widths.dtype.itemsize
    num_bytes = (4 * tokens + 1) * row_bytes
    weight = torch.rand(widths.hidden, device=device).to(widths.dtype)
    data = torch.randn(_copies(num_bytes, device), 2, tokens, widths.hidden, device=device).to(widths.dtype)
    calls = [partial(add_rms_norm, x[0], x[1], weight, 1e-5) for x in data]
    return _repeated("add_rms_norm", f"T={tokens}", num_bytes, calls)


def _rope(device: torch.device, widths: Widths, tokens: int) -> Row:
    """Queries, keys and values read, queries and the cache written; of the tables, a row for each token."""
    heads = widths.heads + 2 * widths.kv_heads
    num_bytes = tokens * (2 * heads * widths.size * widths.dtype.itemsize + widths.size * 4)
    positions = torch.arange(tokens, device=device)
    slots = torch.randperm(tokens, device=device)
    cos, sin = torch.rand(2, tokens, widths.size // 2, device=device)
    rope = RopeStep(cos, sin, positions, slots)
    blocks = -(-tokens // BLOCK_SIZE)
    calls: list[Callable[[], object]] = []
    for _ in range(_copies(num_bytes, device)):
        qkv = torch.randn(tokens, heads, widths.size, device=device).to(widths.dtype)
        q, k, v = torch.split(qkv, [widths.heads, widths.kv_heads, widths.kv_heads], dim=1)
        shape = (2, blocks, widths.kv_heads, BLOCK_SIZE, widths.size)
        keys, values = torch.empty(shape, dtype=widths.dtype, device=device)
        calls.append(partial(rope_and_write_kv, q, k, v, keys, values, rope))
    return _repeated("rope_and_write_kv", f"T={tokens}", num_bytes, calls)


def _silu(device: torch.device, widths: Widths, tokens: int) -> Row:
    num_bytes = 3 * tokens * widths.intermediate * widths.dtype.itemsize
    data = torch.randn(_copies(num_bytes, device), tokens, 2 * widths.intermediate, device=device).to(widths.dtype)
    return _repeated("silu_and_mul", f"T={tokens}", num_bytes, [partial(silu_and_mul, x) for x in data])


def _greedy(make_logits: Callable[[], torch.Tensor]) -> Row:
    logits = make_logits()
    return Row("greedy", f"L={len(logits)}", logits.nbytes, 0.0, partial(sampling.greedy, logits))


def _logprobs(make_logits: Callable[[], torch.Tensor], num_top: int) -> Row:
    logits = make_logits()
    ids = torch.arange(len(logits), device=logits.device)
    call = partial(sampling.logprobs, logits, ids, num_top)
    return Row(f"logprobs, top {num_top}", f"L={len(logits)}", logits.nbytes, 0.0, call)


def _sample(make_logits: Callable[[], torch.Tensor], cut: Cut) -> Row:
    logits = make_logits()
    batch, vocab = logits.shape
    device = logits.device
    rows = torch.arange(batch, device=device)
    temperature, min_p = torch.full((batch,), 0.8, device=device), torch.zeros(batch, device=device)
    top_k = torch.full((batch,), min(cut.top_k or vocab, vocab), device=device)
    top_p = torch.full((batch,), cut.top_p, device=device)
    uniform = torch.rand(batch, dtype=torch.float64, device=device)
    call = partial(sampling.sample, logits, rows, temperature, top_k, top_p, min_p, uniform)
    return Row(f"sample, {cut.name}", f"L={batch}", logits.nbytes, 0.0, call)
