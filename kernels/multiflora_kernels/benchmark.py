"""Times every op as a small model's serving uses it: the native library beside the torch path, on this machine.

Knows the ops and one model shape (hidden 512, 8 heads of 64, 4 kv heads, MLP 1408); asserts nothing.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from multiflora_kernels.activation import silu_and_mul, silu_and_mul_reference
from multiflora_kernels.attention.paged_attention import _paged_attention_torch, paged_attention
from multiflora_kernels.attention.step import AttentionStep
from multiflora_kernels.linear.dense import DenseWeight
from multiflora_kernels.linear.quantised import INT8, IntegerForm, QuantisedWeight
from multiflora_kernels.lora.batched_lora import LoraSegments, lora_linear_, lora_linear_reference_
from multiflora_kernels.rms_norm import add_rms_norm, add_rms_norm_reference
from multiflora_kernels.rope.rope_and_kv import rope_and_write_kv, rope_and_write_kv_reference
from multiflora_kernels.rope.step import RopeStep
from multiflora_kernels.runtime.native import library, native_status

HIDDEN, HEADS, KV_HEADS, HEAD_SIZE, BLOCK_SIZE, RANK = 512, 8, 4, 64, 16, 16
REPEATS = 15
SECONDS_PER_OP = 0.5
COPIES = 4
"""Weights and caches a measurement takes turns with, so that none of them waits in the nearest cache."""

Call = Callable[[int], object]


@dataclass(frozen=True)
class Measurement:
    """op and shape as printed; native and torch: one call each, given a number that picks the copy to work on."""

    op: str
    shape: str
    native: Call
    torch: Call


@dataclass
class _Site:
    a: torch.Tensor
    b: torch.Tensor
    offsets: torch.Tensor
    ranks: torch.Tensor
    magnitude: torch.Tensor | None = None
    max_rank: int = RANK


def _microseconds(call: Call) -> float:
    """Median of up to REPEATS calls, in about SECONDS_PER_OP."""
    call(0)
    samples: list[float] = []
    deadline = time.perf_counter() + SECONDS_PER_OP
    while len(samples) < REPEATS and (len(samples) < 3 or time.perf_counter() < deadline):
        begin = time.perf_counter()
        call(len(samples) + 1)
        samples.append(time.perf_counter() - begin)
    return statistics.median(samples) * 1e6


def _rows(tokens: int) -> Iterator[Measurement]:
    x, residual, weight = torch.randn(tokens, HIDDEN), torch.randn(tokens, HIDDEN), torch.randn(HIDDEN)
    gates = torch.randn(tokens, 2 * 1408)
    yield Measurement(
        "add_rms_norm", f"T={tokens}", lambda i: add_rms_norm(x, residual, weight, 1e-5),
        lambda i: add_rms_norm_reference(x, residual, weight, 1e-5),
    )  # fmt: skip
    yield Measurement(
        "silu_and_mul", f"T={tokens}", lambda i: silu_and_mul(gates), lambda i: silu_and_mul_reference(gates)
    )
    qkv = torch.randn(tokens, HEADS + 2 * KV_HEADS, HEAD_SIZE)
    q, k, v = qkv[:, :HEADS], qkv[:, HEADS : HEADS + KV_HEADS], qkv[:, HEADS + KV_HEADS :]
    table, positions, slots = torch.rand(tokens, HEAD_SIZE // 2), torch.arange(tokens), torch.randperm(tokens)
    cache = torch.zeros(2, tokens // BLOCK_SIZE + 1, KV_HEADS, BLOCK_SIZE, HEAD_SIZE)
    rope = (q, k, v, cache[0], cache[1], RopeStep(table, table, positions, slots))
    yield Measurement(
        "rope_and_write_kv", f"T={tokens}", lambda i: rope_and_write_kv(*rope),
        lambda i: rope_and_write_kv_reference(*rope),
    )  # fmt: skip


def _linear(tokens: int, k: int, n: int) -> Measurement:
    x, weights = torch.randn(tokens, k), [DenseWeight(torch.randn(n, k)) for _ in range(COPIES)]
    return Measurement(
        "linear", f"T={tokens} {k}->{n}", lambda i: weights[i % COPIES].matmul(x),
        lambda i: F.linear(x, weights[i % COPIES].tensor),
    )  # fmt: skip


def _quantised_linear(form: IntegerForm, tokens: int, k: int, n: int) -> Measurement:
    """Beside the dense product of float32, native as well."""
    x, top, dense = torch.randn(tokens, k), 1 << form.bits, [DenseWeight(torch.randn(n, k)) for _ in range(COPIES)]
    narrow = [QuantisedWeight.empty(form, (n, k), torch.float32, torch.device("cpu")) for _ in range(COPIES)]
    for weight in narrow:
        scales = torch.rand(n, k // (form.group_size or k)) / top
        weight.store_(0, torch.randint(top, (n, k), dtype=torch.uint8), scales, None)
    return Measurement(
        f"linear, {form.bits} bits", f"T={tokens} {k}->{n}", lambda i: narrow[i % COPIES].matmul(x),
        lambda i: dense[i % COPIES].matmul(x),
    )  # fmt: skip


def _attention(sequences: int, context: int, queries: int) -> Measurement:
    blocks = -(-context // BLOCK_SIZE)
    caches = torch.randn(COPIES, 2, sequences * blocks, KV_HEADS, BLOCK_SIZE, HEAD_SIZE)
    tables = torch.randperm(sequences * blocks).int().view(sequences, blocks)
    starts, lengths = torch.arange(sequences + 1).int() * queries, torch.full((sequences,), context).int()
    q = torch.randn(sequences * queries, HEADS, HEAD_SIZE)
    step = AttentionStep(starts, lengths, tables, HEAD_SIZE**-0.5)
    return Measurement(
        "paged_attention", f"S={sequences} context={context} queries={queries}",
        lambda i: paged_attention(q, caches[i % COPIES, 0], caches[i % COPIES, 1], step),
        lambda i: _paged_attention_torch(q, caches[i % COPIES, 0], caches[i % COPIES, 1], step),
    )  # fmt: skip


def _lora(adapters: int, tokens: int) -> Measurement:
    """The q, k, v projections of one layer, `tokens` tokens for each adapter."""
    offsets, ranks = torch.arange(adapters).int() * RANK, torch.full((adapters,), RANK).int()
    widths = (HIDDEN, HIDDEN // 2, HIDDEN // 2)
    copies = [
        [_Site(torch.randn(adapters * RANK, HIDDEN), torch.randn(adapters * RANK, n), offsets, ranks) for n in widths]
        for _ in range(COPIES)
    ]
    columns = [(0, 512), (512, 768), (768, 1024)]
    segments = LoraSegments.build([g * tokens for g in range(adapters + 1)], list(range(adapters)))
    x, y = torch.randn(adapters * tokens, HIDDEN), torch.zeros(adapters * tokens, 1024)
    return Measurement(
        "lora_linear_ qkv", f"adapters={adapters} tokens={tokens} rank={RANK}",
        lambda i: lora_linear_(y, x, copies[i % COPIES], columns, segments),
        lambda i: lora_linear_reference_(y, x, copies[i % COPIES], columns, segments),
    )  # fmt: skip


def _measurements() -> Iterator[Measurement]:
    yield from _rows(32)
    yield from _rows(1024)
    for tokens in (1, 8, 32, 64):
        yield _linear(tokens, HIDDEN, 2816)
    for form in (INT8, IntegerForm(4, 128)):
        for tokens in (1, 8, 64, 256):
            yield _quantised_linear(form, tokens, HIDDEN, 2816)
    for shape in ((32, 160, 1), (1, 2000, 1), (16, 1056, 1), (1, 1024, 1024), (16, 1056, 32)):
        yield _attention(*shape)
    for adapters, tokens in ((1, 32), (8, 4), (32, 1), (8, 128)):
        yield _lora(adapters, tokens)


def run() -> list[dict[str, str | float]]:
    """One row per op and shape: op, shape, native_us, torch_us (medians, microseconds) and ratio = torch / native.

    Without a native library both columns time the torch path and the ratio is about 1.
    """
    torch.manual_seed(0)
    rows: list[dict[str, str | float]] = []
    with torch.inference_mode():
        for m in _measurements():
            native, plain = _microseconds(m.native), _microseconds(m.torch)
            rows.append(
                {"op": m.op, "shape": m.shape, "native_us": round(native, 1), "torch_us": round(plain, 1),
                 "ratio": round(plain / native, 2)}
            )  # fmt: skip
    return rows


def main() -> None:
    """Prints the table."""
    library()
    print(f"{native_status()}; {torch.get_num_threads()} threads")
    print(f"{'op':20}{'shape':36}{'native us':>11}{'torch us':>11}{'ratio':>8}")
    for row in run():
        print(f"{row['op']:20}{row['shape']:36}{row['native_us']:>11}{row['torch_us']:>11}{row['ratio']:>8}")


if __name__ == "__main__":
    main()
