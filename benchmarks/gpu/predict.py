"""Prints the least that steps of Llama 3.1 8B can take on known cards, by operation. Nothing here is measured.

What a kernel loses against these floors, and launches, are not in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gpu.llama import LLAMA_8B, model_config
from gpu.measure import Limits
from gpu.steps import StepCost, decode_costs, floor_seconds, prefill_costs
from multiflora_engine.models.configuration.model_config import ModelConfig

CARDS = {"H200": Limits(4.3e12, 790e12), "A100": Limits(2.039e12, 312e12), "L4": Limits(300e9, 121e12)}
"""Bytes and FLOP (bfloat16) a second: about what an H200 should reach; the data sheets' of an A100 (80 GB) and L4."""

_RANK, _ITEMSIZE = 16, 2
_DECODE = ("products", "attention", "adapters")
_PREFILL = ("products", "head", "attention")


def decode_rows(model: ModelConfig, batch: int, context: int, adapters: int) -> Iterator[str]:
    costs = decode_costs(model, batch, context, adapters, _RANK, _ITEMSIZE)
    return _rows(f"decode B={batch} context={context} adapters={adapters}", _DECODE, costs)


def prefill_rows(model: ModelConfig, tokens: int) -> Iterator[str]:
    return _rows(f"prefill tokens={tokens}", _PREFILL, prefill_costs(model, tokens, _ITEMSIZE))


def _rows(title: str, names: Sequence[str], costs: list[StepCost]) -> Iterator[str]:
    """One line for each operation and one for all; floors in milliseconds."""
    for name, part in (*((name, [cost]) for name, cost in zip(names, costs, strict=True)), ("all", costs)):
        gigabytes, gigaflops = sum(cost.num_bytes for cost in part) / 1e9, sum(cost.flops for cost in part) / 1e9
        floors = "".join(f"{1e3 * floor_seconds(part, limits):>12.3f}" for limits in CARDS.values())
        yield f"{title:<42}{name:<11}{gigabytes:>10.3f}{gigaflops:>12.1f}{floors}"


def table() -> Iterator[str]:
    model = model_config(LLAMA_8B)
    cards = "".join(f"{name + ' ms':>12}" for name in CARDS)
    yield f"{'predicted floors':<42}{'operation':<11}{'GB':>10}{'GFLOP':>12}{cards}"
    for batch, adapters in ((1, 0), (1, 1), (32, 0), (32, 8), (64, 0), (64, 64), (128, 0)):
        for context in (512, 2048):
            yield from decode_rows(model, batch, context, adapters)
    for tokens in (1024, 8192, 32768):
        yield from prefill_rows(model, tokens)


if __name__ == "__main__":
    print("\n".join(table()))
