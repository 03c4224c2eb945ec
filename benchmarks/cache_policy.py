"""What the prefix cache's policy of eviction finds of made-up traffic, beside the optimum of one that knows the future.

    python benchmarks/cache_policy.py [FOLDER]

Writes the traces to the folder, for `multiflora cache simulate`. The same seed makes the same trace on every machine.
"""

from __future__ import annotations

import sys
from pathlib import Path

from multiflora_engine.simulation.block_trace import write_line
from multiflora_engine.simulation.optimum import optimum
from multiflora_engine.simulation.replay import POLICIES, replay
from multiflora_engine.simulation.workloads import conversations, loop, one_off_prompts, together

SIZES = (300, 500, 700)


def main(folder: Path | None) -> None:
    traces = {
        "half-one-off": one_off_prompts(0.5),
        "mostly-one-off": one_off_prompts(0.8),
        "loop": loop(),
        "conversations": conversations(),
        "all-at-once": together(one_off_prompts(0.5, requests=1500), conversations(requests=1500, active=12, seed=2)),
    }
    for name, trace in traces.items():
        if folder is not None:
            (folder / f"{name}.jsonl").write_bytes(b"".join(map(write_line, trace)))
        for num_blocks in SIZES:
            best = optimum(trace, num_blocks).hit_rate
            rates = {policy: replay(trace, num_blocks, POLICIES[policy]).hit_rate for policy in POLICIES}
            shown = ", ".join(f"{policy} {rate:.3f} ({rate / best:.2f} of it)" for policy, rate in rates.items())
            print(f"{name:15} {num_blocks:4} blocks: optimum {best:.3f}, {shown}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
