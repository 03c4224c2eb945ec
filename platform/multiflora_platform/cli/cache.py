"""`multiflora cache simulate`: what the prefix cache would find of a trace of blocks in other pools. No server."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multiflora_engine.simulation.block_trace import BadTrace, TracedRequest, read_trace
from multiflora_engine.simulation.optimum import optimum
from multiflora_engine.simulation.replay import POLICIES, Found, replay
from multiflora_platform.cli.terminal.output import add_output_flag, emit
from multiflora_platform.exit_codes import CommandError, ExitCode

_BEST = "optimum"
_COLUMNS = ("blocks", "policy", "hit_rate", "of_optimum", "computed_blocks", "skipped", "curve")
_BAR = 30
# Of a trace's different blocks, the pools that are tried where the command line names none: one in so many.
_PARTS = (16, 8, 4, 2, 1)


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("cache", help="what the prefix cache would find in pools of other sizes")
    group = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    simulate = group.add_parser("simulate", help="replay a trace of blocks through the engine's own cache")
    simulate.add_argument("trace", type=Path, metavar="TRACE", help="a file with a request of blocks on each line")
    simulate.add_argument(
        "--blocks", type=_positive, nargs="+", metavar="N", help="KV blocks of the pool; default: parts of the trace's"
    )
    simulate.add_argument(
        "--policy", action="append", choices=(*POLICIES, _BEST), help="repeatable; default: all of them"
    )
    add_output_flag(simulate)
    simulate.add_argument("--log-level", default="info", help="debug shows tracebacks")
    simulate.set_defaults(run=run_simulate)


def run_simulate(arguments: argparse.Namespace) -> int:
    trace = _read(arguments.trace)
    policies = arguments.policy or [*POLICIES, _BEST]
    rows = []
    for num_blocks in sorted(set(arguments.blocks or _sizes(trace))):
        best = optimum(trace, num_blocks)
        rows += [_row(num_blocks, policy, _simulate(trace, num_blocks, policy, best), best) for policy in policies]
    emit(arguments.output, rows, _COLUMNS)
    return ExitCode.OK


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of blocks")
    return int(text)


def _read(path: Path) -> list[TracedRequest]:
    try:
        trace = read_trace(path.read_bytes().splitlines())
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", ExitCode.CONFIGURATION) from None
    except BadTrace as error:
        raise CommandError(f"{path} is no trace of blocks: {error}", ExitCode.CONFIGURATION) from None
    if not any(request.blocks for request in trace):
        raise CommandError(f"{path} has no blocks; record while requests run", ExitCode.CONFIGURATION)
    return trace


def _sizes(trace: Sequence[TracedRequest]) -> list[int]:
    """Of pools in which at least the largest request fits."""
    distinct = len({block for request in trace for block in request.blocks})
    largest = max(len(request.blocks) for request in trace)
    return [max(largest, distinct // part) for part in _PARTS]


def _simulate(trace: Sequence[TracedRequest], num_blocks: int, policy: str, best: Found) -> Found:
    return best if policy == _BEST else replay(trace, num_blocks, POLICIES[policy])


def _row(num_blocks: int, policy: str, counts: Found, best: Found) -> dict[str, Any]:
    return {
        "blocks": num_blocks,
        "policy": policy,
        "hit_rate": round(counts.hit_rate, 4),
        "of_optimum": round(counts.found / best.found, 3) if best.found else None,
        # The prompts' blocks that are computed, which is what a request costs.
        "computed_blocks": counts.asked - counts.found,
        "skipped": counts.skipped,
        "curve": "#" * round(counts.hit_rate * _BAR),
    }
