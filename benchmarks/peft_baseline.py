"""The comparison's other side: transformers + PEFT, one static batch of mixed adapters, in-process, no HTTP.

    python benchmarks/peft_baseline.py INPUTS WORKLOAD REPETITIONS [--one-at-a-time]

A strong offline baseline: all requests are known up front and equally long, which no server is ever told.
With --one-at-a-time, a loop of batches of one instead, as a script without an engine runs them.
Prints one JSON line per repetition: wall seconds, tokens_per_second, ttft seconds, peak_bytes of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from transformers.utils import logging

_PAD = 2


class FirstToken:
    """A stopping criterion that never stops: it notes when the first token was there."""

    def __init__(self) -> None:
        self.at: float | None = None

    def __call__(self, ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.at = self.at or time.perf_counter()
        return torch.zeros(ids.shape[0], dtype=torch.bool)


def load(inputs: Path, adapters: list[str]) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(inputs / "base", dtype=torch.float32).eval()
    for name in adapters:
        folder = inputs / "adapters" / name
        if isinstance(model, PeftModel):
            model.load_adapter(folder, adapter_name=name)
        else:
            model = PeftModel.from_pretrained(model, folder, adapter_name=name)
    return model.eval()


def run(model: Any, requests: list[dict[str, Any]]) -> dict[str, float]:
    """One batch, prompts padded on the left, as long as its longest; only tokens that were asked for count."""
    longest = max(len(request["prompt"]) for request in requests)
    padding = [longest - len(request["prompt"]) for request in requests]
    rows = [[_PAD] * pad + request["prompt"] for pad, request in zip(padding, requests, strict=True)]
    mask = [[0] * pad + [1] * (longest - pad) for pad in padding]
    mixed = {"adapter_names": [r["adapter"] for r in requests]} if requests[0]["adapter"] else {}
    tokens, clock, start = max(r["max_tokens"] for r in requests), FirstToken(), time.perf_counter()
    model.generate(
        input_ids=torch.tensor(rows, device=model.device),
        attention_mask=torch.tensor(mask, device=model.device),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=_PAD,
        stopping_criteria=[clock],
        **mixed,
    )
    wall = time.perf_counter() - start
    return {
        "wall": wall,
        "tokens_per_second": sum(r["max_tokens"] for r in requests) / wall,
        "ttft": (clock.at or time.perf_counter()) - start,
    }


def run_in_turn(model: Any, requests: list[dict[str, Any]]) -> dict[str, float]:
    """ttft: the mean, each from its own start."""
    runs = [run(model, [request]) for request in requests]
    wall = sum(one["wall"] for one in runs)
    return {
        "wall": wall,
        "tokens_per_second": sum(r["max_tokens"] for r in requests) / wall,
        "ttft": sum(one["ttft"] for one in runs) / len(runs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("workload", type=Path)
    parser.add_argument("repetitions", type=int)
    parser.add_argument("--one-at-a-time", action="store_true")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(2)
    requests = json.loads(arguments.workload.read_text(encoding="utf-8"))
    model = load(arguments.inputs, sorted({r["adapter"] for r in requests if r["adapter"]}))
    measure = run_in_turn if arguments.one_at_a_time else run
    with torch.inference_mode():
        for _ in range(arguments.repetitions):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            print(json.dumps({**measure(model, requests), "peak_bytes": peak}), flush=True)


if __name__ == "__main__":
    main()
