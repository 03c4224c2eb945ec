"""Everything that is measured on a GPU, in one command of under nine minutes: `make gpu-bench`.

    python benchmarks/gpu_bench.py [--output FILE.json] [--only kernels steps taxes peers]

Llama 3.1 8B shapes in bfloat16 with random weights made on the device. Each row stands beside its floor, from the bytes
that it must move and the FLOPs that it must compute, and from what this card reached at both in the same run.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import inputs
from gpu.attention import attention_rows, cascade_costs
from gpu.idle import idle_share
from gpu.llama import LLAMA_8B, build, model_config, random_weights
from gpu.lora import lora_rows
from gpu.measure import Limits, Result, Row, measure, measure_limits, print_results, seconds
from gpu.peers import baseline_model, compare, engine_speeds
from gpu.rows import layer_rows, sampling_rows
from gpu.steps import Traffic, decode_results, lora_taxes, prefill_results

PARTS = ("kernels", "steps", "taxes", "peers")
BATCHES, CONTEXTS, PREFILLS = [1, 32, 128, 256], [512, 2048], [1024, 8192, 32768]
TAX_PAIRS = [(1, 1), (1, 32), (8, 32), (8, 64), (32, 64), (64, 64), (128, 128)]
_ENGINE: dict[str, Any] = {
    "max_num_seqs": 256,
    "max_num_batched_tokens": 8192,
    "max_model_len": 33000,
    "device": "cuda",
}
_BF16, _CUDA = torch.bfloat16, torch.device("cuda")


def kernel_rows() -> Iterator[Row]:
    """Of every op that has rows of its own."""
    yield from layer_rows(_CUDA)
    yield from sampling_rows(_CUDA)
    yield from attention_rows(_CUDA)
    yield from lora_rows(_CUDA)


class Bench:
    """Runs the parts that are asked for, prints as it goes, and remembers everything for the JSON file."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.report: dict[str, Any] = {"machine": _machine(), "limits": asdict(limits), "seconds": {}}
        self._folder = tempfile.TemporaryDirectory()
        inputs.make_workloads(Path(self._folder.name))

    def run(self, part: str, work: Callable[[], None]) -> None:
        began = time.perf_counter()
        work()
        gc.collect()
        torch.cuda.empty_cache()
        self.report["seconds"][part] = round(time.perf_counter() - began, 1)

    def kernels(self) -> None:
        self._keep("kernels", [measure(row, self.limits) for row in kernel_rows()])
        self.report["cascade_costs"] = asdict(cascade_costs(seconds, _CUDA))

    def engine(self, parts: set[str]) -> None:
        """The parts that need whole models: engines one after the other on the same weights, then the baseline."""
        model = model_config(LLAMA_8B)
        weights = random_weights(model, _BF16, _CUDA)
        built = build(model, weights, **_ENGINE, max_loras=128, max_lora_rank=16)
        traffic = Traffic(built)
        if "steps" in parts:
            self._keep("decode", list(decode_results(traffic, self.limits, BATCHES, CONTEXTS)))
            self._keep("prefill", list(prefill_results(traffic, self.limits, PREFILLS)))
            self._idle(traffic)
        if "taxes" in parts:
            self._taxes(traffic, 16, TAX_PAIRS)
        speeds = engine_speeds(built, Path(self._folder.name)) if "peers" in parts else {}
        built.close()
        del traffic, built
        gc.collect()
        torch.cuda.empty_cache()
        if "taxes" in parts:
            built = build(model, weights, **{**_ENGINE, "max_num_seqs": 64}, max_loras=64, max_lora_rank=64)
            self._taxes(Traffic(built), 64, [pair for pair in TAX_PAIRS if pair[0] <= 64])
            built.close()
            del built
        del weights
        gc.collect()
        torch.cuda.empty_cache()
        if "peers" in parts:
            self._peers(speeds)

    def _idle(self, traffic: Traffic) -> None:
        """Shares of steady decode in which the GPU has nothing to do."""
        self.report["idle"] = {}
        for batch, adapters in ((1, 0), (64, 0), (64, 64)):
            load, share = f"batch {batch}, {adapters} adapters", idle_share(traffic, batch, adapters)
            self.report["idle"][load] = round(share, 4)
            print(f"idle in steady decode, {load}: {share:.2%}", flush=True)

    def _taxes(self, traffic: Traffic, rank: int, pairs: list[tuple[int, int]]) -> None:
        taxes = [asdict(tax) for tax in lora_taxes(traffic, rank, pairs, context=512)]
        self.report[f"taxes, rank {rank}"] = taxes
        for tax in taxes:
            print(
                f"N={tax['adapters']:<4} batch {tax['batch']:<4} rank {rank}: {tax['base_us']} -> {tax['us']} us, "
                f"tax {tax['tax']:.1%} (floor {tax['floor']:.1%})",
                flush=True,
            )

    def _peers(self, speeds: dict[str, float]) -> None:
        rows = []
        for row in compare(speeds, baseline_model(LLAMA_8B, _CUDA, _BF16), Path(self._folder.name)):
            rows.append(asdict(row))
            print(f"{row.workload:8}{row.tokens_per_second:>10} tokens/s, baseline {row.baseline_tokens_per_second}: "
                  f"{row.ratio}x", flush=True)  # fmt: skip
        self.report["peers"] = rows

    def _keep(self, name: str, results: list[Result]) -> None:
        self.report[name] = [asdict(result) for result in results]
        print_results(results)


def _machine() -> str:
    properties = torch.cuda.get_device_properties(0)
    return f"{properties.name}, {properties.total_memory >> 30} GiB, torch {torch.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, help="write the results as JSON, too")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("There is no GPU here; `make bench` measures the CPU.")
    bench = Bench(measure_limits())
    print(f"{bench.report['machine']}: {bench.limits.bandwidth / 1e12:.2f} TB/s, "
          f"{bench.limits.arithmetic / 1e12:.0f} TFLOP/s", flush=True)  # fmt: skip
    if "kernels" in arguments.only:
        bench.run("kernels", bench.kernels)
    if parts := {"steps", "taxes", "peers"} & set(arguments.only):
        bench.run("engine", lambda: bench.engine(parts))
    if arguments.output:
        arguments.output.write_text(json.dumps(bench.report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
