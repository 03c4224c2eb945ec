"""`multiflora fleet simulate`: a trace of requests on simulated replicas, by number and policy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multiflora_engine.protocol.traced_request import TracedRequest
from multiflora_platform.cli.cache import positive, read_trace_file
from multiflora_platform.cli.terminal.output import add_output_flag, emit
from multiflora_platform.exit_codes import CommandError, ExitCode
from multiflora_platform.fleet.scaling import Targets
from multiflora_platform.fleet_simulation.policies import POLICIES
from multiflora_platform.fleet_simulation.run import Outcome, Plan, simulate
from multiflora_platform.fleet_simulation.simulated_engine import Costs, EngineShape

# None of them was measured, and each row says so.
_COLUMNS = (
    "figures", "replicas", "policy", "requests", "skipped", "cached", "ttft_mean", "ttft_p50", "ttft_p95", "ttft_p99",
    "replica_seconds",
)  # fmt: skip
_SHAPE, _COSTS, _TARGETS = EngineShape(1), Costs(), Targets()


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("fleet", help="try numbers of replicas and policies of routing, simulated")
    group = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    command = group.add_parser("simulate", help="replay a trace of requests on simulated replicas")
    command.add_argument("trace", type=Path, metavar="TRACE", help="a file as `multiflora cache record` writes it")
    command.add_argument("--replicas", type=positive, nargs="+", default=[1, 2, 4], help="default: 1 2 4")
    command.add_argument(
        "--policy", action="append", choices=tuple(POLICIES), help="repeatable; default: score and round-robin"
    )
    command.add_argument("--blocks", type=positive, required=True, metavar="N", help="KV blocks of each replica")
    command.add_argument("--block-size", type=positive, default=_SHAPE.block_size, metavar="TOKENS")
    command.add_argument("--max-num-seqs", type=positive, default=_SHAPE.max_num_seqs, metavar="N")
    command.add_argument("--max-num-batched-tokens", type=positive, default=_SHAPE.max_num_batched_tokens, metavar="N")
    command.add_argument("--max-loras", type=positive, default=_SHAPE.lora_slots, metavar="N", help="slots of adapters")
    _seconds(command, "--step-seconds", _COSTS.step, "of a step, whatever is in it")
    _seconds(command, "--prompt-seconds", _COSTS.prompt, "of each prompt token that is computed")
    _seconds(command, "--answer-seconds", _COSTS.answer, "of each answer that a step goes on with")
    _seconds(command, "--front-seconds", _COSTS.front, "of a request's way to an engine and back")
    _seconds(command, "--start-seconds", _COSTS.start, "of an engine's start, with --min-replicas")
    command.add_argument(
        "--speed", type=_above_zero, default=1.0, help="times as fast as the requests came; default: 1"
    )
    command.add_argument(
        "--min-replicas", type=positive, metavar="N",
        help="as many as the load wants, from so many up to --replicas; default: always all",
    )  # fmt: skip
    command.add_argument(
        "--target-queue-seconds", type=_above_zero, default=_TARGETS.queue_seconds, metavar="S",
        help="that prompts may wait before more replicas are started; default: 1",
    )  # fmt: skip
    add_output_flag(command)
    command.add_argument("--log-level", default="info", help="debug shows tracebacks")
    command.set_defaults(run=run_simulate)


def _seconds(command: argparse.ArgumentParser, flag: str, default: float, of_what: str) -> None:
    help = f"seconds {of_what}; default: {default:g}"
    command.add_argument(flag, type=_not_negative, default=default, metavar="S", help=help)


def run_simulate(arguments: argparse.Namespace) -> int:
    trace = read_trace_file(arguments.trace)
    _require_times(arguments.trace, trace)
    sizes = sorted(set(arguments.replicas))
    _require_room(arguments.min_replicas, sizes[0])
    rows = [
        _row(replicas, policy, simulate(trace, _plan(arguments, replicas, policy)))
        for replicas in sizes
        for policy in arguments.policy or ("score", "round-robin")
    ]
    emit(arguments.output, rows, _COLUMNS)
    return ExitCode.OK


def _plan(arguments: argparse.Namespace, replicas: int, policy: str) -> Plan:
    return Plan(
        replicas=replicas,
        shape=EngineShape(
            arguments.blocks,
            arguments.block_size,
            arguments.max_num_seqs,
            arguments.max_num_batched_tokens,
            arguments.max_loras,
        ),
        costs=Costs(
            arguments.step_seconds,
            arguments.prompt_seconds,
            arguments.answer_seconds,
            arguments.front_seconds,
            start=arguments.start_seconds,
        ),
        policy=policy,
        speed=arguments.speed,
        least=arguments.min_replicas,
        targets=Targets(queue_seconds=arguments.target_queue_seconds),
    )


def _row(replicas: int, policy: str, outcome: Outcome) -> dict[str, Any]:
    return {
        "figures": "simulated",
        "replicas": replicas,
        "policy": policy,
        "requests": len(outcome.first_seconds),
        "skipped": outcome.skipped,
        "cached": round(outcome.cached_share, 4),
        "ttft_mean": round(outcome.mean, 4),
        "ttft_p50": round(outcome.percentile(50), 4),
        "ttft_p95": round(outcome.percentile(95), 4),
        "ttft_p99": round(outcome.percentile(99), 4),
        "replica_seconds": round(outcome.replica_seconds, 1),
    }


def _require_times(path: Path, trace: Sequence[TracedRequest]) -> None:
    if len(trace) > 1 and len({request.at for request in trace}) == 1:
        message = f"{path} does not tell when its requests came; record it again"
        raise CommandError(message, ExitCode.CONFIGURATION)


def _require_room(least: int | None, most: int) -> None:
    if least is not None and least > most:
        raise CommandError(f"--min-replicas {least} is more than --replicas {most}", ExitCode.USAGE)


def _above_zero(text: str) -> float:
    if not (number := _not_negative(text)):
        raise argparse.ArgumentTypeError("0 is no number above 0")
    return number


def _not_negative(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 up")
    return number
