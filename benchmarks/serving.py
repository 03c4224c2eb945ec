"""Multiflora through HTTP beside transformers + PEFT in-process: same weights, same token ids, one run, medians.

    python benchmarks/serving.py [--workloads w1-0 …] [--repetitions 3] [--output FILE.json]

The two sides take turns, workload by workload, so that a machine that changes its pace does so for both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import inputs
from multiflora_platform.bench.load import LoadRequest, run_load
from multiflora_platform.bench.workload import read_workload, vary

KEY = "benchmark"
TARGETS = {"w1-0": 1.2, "w1-1": 1.6, "w1-8": 2.0, "w1-32": 2.5, "w2-0": 10.0, "w2-8": 3.0}
CACHED_TTFT_TARGET = 20.0


@dataclass(frozen=True)
class RunningServer:
    url: str
    pid: int


@contextmanager
def server(folder: Path) -> Iterator[RunningServer]:
    """`multiflora serve` on the benchmark's model with its 32 adapters."""
    modules = [f"a{number:02d}={folder / 'adapters' / f'a{number:02d}'}" for number in range(inputs.ADAPTERS)]
    with tempfile.TemporaryDirectory() as data:
        command = [
            *(sys.executable, "-m", "multiflora", "serve", str(folder / "base"), "--port", "0"),
            *("--served-model-name", "base", "--data-dir", data, "--api-key", KEY, "--log-level", "warning"),
            *("--max-loras", "32", "--max-lora-rank", "16", "--max-model-len", "2048", "--lora-modules", *modules),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield RunningServer(_url(process), process.pid)
            finally:
                process.terminate()


def _url(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"(http://127\.0\.0\.1:\d+)/v1", line):
            return found[1]
    raise SystemExit(f"the server did not start: exit code {process.wait()}")


def ours(url: str, workload: Path, repetitions: int) -> list[dict[str, float]]:
    """The same figures as peft_baseline prints, measured by a client on the other end of HTTP."""
    requests = read_workload(workload, base="base")
    run_load(url, KEY, vary(requests, repetitions + 1, inputs.VOCABULARY), len(requests))
    results = []
    for repetition in range(repetitions):
        run = run_load(url, KEY, vary(requests, repetition, inputs.VOCABULARY), len(requests))
        ttft = statistics.mean(sample.ttft for sample in run.samples)
        results.append({"wall": run.wall, "tokens_per_second": run.tokens_per_second, "ttft": ttft})
    return results


def baseline(folder: Path, workload: Path, repetitions: int) -> list[dict[str, float]]:
    script = Path(__file__).with_name("peft_baseline.py")
    command = [sys.executable, str(script), str(folder), str(workload), str(repetitions + 1)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [json.loads(line) for line in output.splitlines()][1:]


def cached_ttft(url: str, repetitions: int) -> dict[str, Any]:
    """Time to first token of a 1,024-token context, cold and again."""
    cold, warm = [], []
    for repetition in range(repetitions):
        prompt = [inputs.FIRST_PLAIN_TOKEN + (7 * repetition + 13 * i) % 4000 for i in range(1024)]
        request = [LoadRequest("base", prompt, 2)]
        cold.append(run_load(url, KEY, request, 1).samples[0].ttft)
        warm += [run_load(url, KEY, request, 1).samples[0].ttft for _ in range(3)]
    miss, hit = statistics.median(cold), statistics.median(warm)
    return {"miss_seconds": miss, "hit_seconds": hit, "ratio": miss / hit, "target": CACHED_TTFT_TARGET}


def compare(folder: Path, names: list[str], repetitions: int) -> dict[str, Any]:
    rows = []
    with server(folder) as running:
        url = running.url
        for name in names:
            workload = folder / "workloads" / f"{name}.json"
            here = ours(url, workload, repetitions)
            there = baseline(folder, workload, repetitions)
            rows.append(_row(name, here, there, TARGETS[name]))
            print(_line(rows[-1]), flush=True)
        ttft = cached_ttft(url, repetitions)
    print(f"cached 1,024-token context: {ttft['ratio']:.1f}x (at least {CACHED_TTFT_TARGET}x)")
    return {"machine": _machine(), "repetitions": repetitions, "workloads": rows, "cached_ttft": ttft}


def _row(name: str, here: list[dict[str, float]], there: list[dict[str, float]], target: float) -> dict[str, Any]:
    def median(runs: list[dict[str, float]], figure: str) -> float:
        return statistics.median(run[figure] for run in runs)

    speed, base = median(here, "tokens_per_second"), median(there, "tokens_per_second")
    return {
        "workload": name,
        "tokens_per_second": round(speed, 1),
        "baseline_tokens_per_second": round(base, 1),
        "ratio": round(speed / base, 2),
        "target": target,
        "ttft": round(median(here, "ttft"), 3),
        "baseline_ttft": round(median(there, "ttft"), 3),
    }


def _line(row: dict[str, Any]) -> str:
    speed = f"{row['tokens_per_second']:>7} tokens/s, baseline {row['baseline_tokens_per_second']:>6}"
    ratio = f"{row['ratio']:>5}x (at least {row['target']}x)"
    return f"{row['workload']:<6} {speed}: {ratio}, ttft {row['ttft']} s, baseline {row['baseline_ttft']} s"


def _machine() -> str:
    return f"{len(os.sched_getaffinity(0))} cores, {platform.processor() or platform.machine()}, {platform.system()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--inputs", type=Path, default=Path(tempfile.gettempdir()) / "multiflora-benchmark")
    parser.add_argument("--workloads", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--output", type=Path, help="write the results as JSON, too")
    arguments = parser.parse_args()
    inputs.make(arguments.inputs)
    results = compare(arguments.inputs, arguments.workloads, arguments.repetitions)
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
