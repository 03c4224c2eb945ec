"""`multiflora bench serve|kernels`: load a running server, or time the kernels on this machine."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from multiflora_platform.cli.actions import server_command
from multiflora_platform.cli.terminal.output import add_output_flag, emit
from multiflora_platform.exit_codes import CommandError


def add_parser(commands: Any) -> None:
    group = commands.add_parser("bench", help="measure").add_subparsers(dest="action", metavar="ACTION", required=True)
    serve = server_command(group, "serve", run_serve, "send streaming requests to a running server and time them")
    serve.add_argument("--workload", type=Path, help="JSON list of {prompt, max_tokens, adapter}; default: random")
    serve.add_argument("--models", nargs="+", help="models to spread random requests over; default: all")
    serve.add_argument("--requests", type=int, default=32)
    serve.add_argument("--prompt-tokens", type=int, default=128)
    serve.add_argument("--shared-tokens", type=int, default=0, help="leading tokens that all random prompts share")
    serve.add_argument("--output-tokens", type=int, default=64)
    serve.add_argument("--concurrency", type=int, default=1024)
    serve.add_argument("--repetitions", type=int, default=1, help="each with other first tokens")
    kernels = group.add_parser("kernels", help="time every kernel against its fallback")
    add_output_flag(kernels)
    kernels.set_defaults(run=run_kernels)


def run_serve(arguments: argparse.Namespace) -> int:
    try:
        from multiflora_platform.bench import load, workload
    except ImportError as error:
        raise CommandError(f"{error}; pip install 'multiflora[bench]'") from None
    url, key = arguments.url, arguments.api_key
    models = arguments.models or [model["id"] for model in load.get(url, key, "/v1/models")["data"]]
    vocabulary = load.get(url, key, "/tokenizer_info")["vocab_size"]
    if arguments.workload:
        requests = workload.read_workload(arguments.workload, base=models[0])
    else:
        shape = workload.Shape(
            arguments.requests,
            arguments.prompt_tokens,
            min(arguments.shared_tokens, arguments.prompt_tokens),
            arguments.output_tokens,
        )
        requests = workload.random_workload(shape, models, vocabulary)
    rows = []
    for repetition in range(arguments.repetitions):
        varied = workload.vary(requests, repetition, vocabulary)
        rows.append(_row(repetition, load.run_load(url, key, varied, arguments.concurrency)))
    emit(arguments.output, rows, tuple(rows[0]))
    return 0


def _row(repetition: int, run: Any) -> dict[str, Any]:
    ttft = sorted(sample.ttft for sample in run.samples)
    return {
        "repetition": repetition,
        "requests": len(run.samples),
        "tokens_per_second": round(run.tokens_per_second, 1),
        "ttft_mean": round(statistics.mean(ttft), 3),
        "ttft_p50": round(statistics.median(ttft), 3),
        "ttft_max": round(ttft[-1], 3),
        "latency_p50": round(statistics.median(sample.latency for sample in run.samples), 3),
        "cached_tokens": sum(sample.cached_tokens for sample in run.samples),
        "wall": round(run.wall, 3),
    }


def run_kernels(arguments: argparse.Namespace) -> int:
    from multiflora_kernels.benchmark import run

    rows = run()
    emit(arguments.output, rows, tuple(rows[0]))
    return 0
