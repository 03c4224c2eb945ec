"""What guides claim of engines like this one, beside transformers on the same weights: speed against one request at a
time, memory at its peak, and the first token of a document that was read before.

    python benchmarks/claims.py [--repetitions 3]
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import inputs
from multiflora_platform.bench.load import LoadRequest, run_load
from serving import KEY, ours, server

WORKLOAD = "w1-0"
# Tokens: about half a second of computing on two cores.
DOCUMENT = 1536
_MIB = 1 << 20


def one_at_a_time(folder: Path, repetitions: int) -> dict[str, float]:
    """transformers as a loop calls it; peak_bytes: of its process."""
    script = Path(__file__).with_name("peft_baseline.py")
    workload = folder / "workloads" / f"{WORKLOAD}.json"
    command = [sys.executable, str(script), str(folder), str(workload), str(repetitions + 1), "--one-at-a-time"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    runs = [json.loads(line) for line in output.splitlines()][1:]
    return {figure: statistics.median(run[figure] for run in runs) for figure in ("tokens_per_second", "peak_bytes")}


def document(url: str, repetitions: int) -> dict[str, float]:
    """Seconds to the first token of a document and a question: never seen, and with another question before."""
    cold: list[float] = []
    again: list[float] = []
    for repetition in range(repetitions):
        text = [inputs.FIRST_PLAIN_TOKEN + (11 * repetition + 17 * i) % 4000 for i in range(DOCUMENT)]
        for question, seconds in ((1, cold), (2, again)):
            asked = [*text, *(inputs.FIRST_PLAIN_TOKEN + question + i for i in range(16))]
            seconds.append(run_load(url, KEY, [LoadRequest("base", asked, 2)], 1).samples[0].ttft)
    return {"cold": statistics.median(cold), "again": statistics.median(again)}


def peak_bytes(pid: int) -> int:
    """Of a process and its children together."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1] if found else 0) * 1024 + sum(peak_bytes(child) for child in _children(pid))


def _children(pid: int) -> Iterator[int]:
    for thread in Path(f"/proc/{pid}/task").iterdir():
        yield from map(int, (thread / "children").read_text(encoding="ascii").split())


def measure(folder: Path, repetitions: int) -> dict[str, Any]:
    with server(folder) as running:
        here = ours(running.url, folder / "workloads" / f"{WORKLOAD}.json", repetitions)
        speed = statistics.median(run["tokens_per_second"] for run in here)
        memory = peak_bytes(running.pid)
        read = document(running.url, repetitions)
    loop = one_at_a_time(folder, repetitions)
    return {"speed": speed, "memory": memory, "document": read, "loop": loop}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--inputs", type=Path, default=Path(tempfile.gettempdir()) / "multiflora-benchmark")
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    inputs.make(arguments.inputs)
    found = measure(arguments.inputs, arguments.repetitions)
    loop, read = found["loop"], found["document"]
    speed, slow = found["speed"], loop["tokens_per_second"]
    print(f"32 requests: {speed:.0f} tokens/s, transformers one at a time {slow:.0f}: {speed / slow:.1f}x")
    print(f"memory at its peak: {found['memory'] / _MIB:.0f} MiB, transformers {loop['peak_bytes'] / _MIB:.0f} MiB")
    cold, again = read["cold"] * 1e3, read["again"] * 1e3
    print(f"a document of {DOCUMENT} tokens: {cold:.0f} ms, read before {again:.0f} ms: {cold / again:.0f}x")


if __name__ == "__main__":
    main()
