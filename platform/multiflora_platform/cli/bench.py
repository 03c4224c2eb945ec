"""`multiflora bench serve|kernels`: load a running server, or time the kernels on this machine."""

from __future__ import annotations

import argparse
from typing import Any

from multiflora_platform.cli.http import add_server_flags
from multiflora_platform.cli.output import add_output_flag, emit


def add_parser(commands: Any) -> None:
    group = commands.add_parser("bench", help="measure").add_subparsers(dest="action", metavar="ACTION", required=True)
    serve = group.add_parser("serve", help="send streaming requests to a running server and time them")
    add_server_flags(serve)
    add_output_flag(serve)
    serve.add_argument("--models", nargs="+", help="models to spread the requests over; default: all the server has")
    serve.add_argument("--requests", type=int, default=32)
    serve.add_argument("--concurrency", type=int, default=32)
    serve.add_argument("--prompt-tokens", type=int, default=128)
    serve.add_argument("--shared-tokens", type=int, default=0, help="leading prompt tokens that all requests share")
    serve.add_argument("--output-tokens", type=int, default=64)
    serve.set_defaults(run=run_serve)
    kernels = group.add_parser("kernels", help="time every kernel against its fallback")
    add_output_flag(kernels)
    kernels.set_defaults(run=run_kernels)


def run_serve(arguments: argparse.Namespace) -> int:
    from multiflora_platform.bench.load import Load, measure

    load = Load(
        models=tuple(arguments.models or ()),
        requests=arguments.requests,
        concurrency=arguments.concurrency,
        prompt_tokens=arguments.prompt_tokens,
        shared_tokens=min(arguments.shared_tokens, arguments.prompt_tokens),
        output_tokens=arguments.output_tokens,
    )
    rows = measure(arguments.url, arguments.api_key, load)
    emit(arguments.output, rows, tuple(rows[0]))
    return 0


def run_kernels(arguments: argparse.Namespace) -> int:
    from multiflora_platform.bench.kernels import measure

    rows = measure()
    emit(arguments.output, rows, tuple(rows[0]))
    return 0
