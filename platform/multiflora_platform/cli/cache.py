"""`multiflora cache record|simulate`: a server's trace of blocks, and what other pools would find of it.

The other actions, about what the cache has, are in watching/cache_use.py.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from multiflora_engine.protocol.traced_request import TracedRequest
from multiflora_engine.simulation.block_trace import BadTrace, read_trace, write_line
from multiflora_engine.simulation.optimum import optimum
from multiflora_engine.simulation.replay import POLICIES, Found, replay
from multiflora_platform.cli.actions import server_command
from multiflora_platform.cli.http import request
from multiflora_platform.cli.terminal.line_plot import Panel, svg
from multiflora_platform.cli.terminal.output import add_output_flag, emit, emit_one
from multiflora_platform.cli.watching import cache_use
from multiflora_platform.exit_codes import CommandError, ExitCode

_BEST = "optimum"
_COLUMNS = ("blocks", "policy", "hit_rate", "of_optimum", "computed_blocks", "skipped", "curve")
_BAR = 30
# The server stops recording when it was not asked for a minute.
_POLL_SECONDS = 2.0
# Of a trace's different blocks, the pools that are tried where the command line names none: one in so many.
_PARTS = (16, 8, 4, 2, 1)


class _Taken(msgspec.Struct):
    """What the server answers; see CacheTrace."""

    items: list[TracedRequest]
    lost: int
    has_more: bool


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "cache", help="what the prefix cache has, why prompts miss it, and pools of other sizes"
    )
    group = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    cache_use.add_actions(group)
    record = server_command(group, "record", run_record, "write the blocks that a server's requests use, as hashes")
    record.add_argument("trace", type=Path, metavar="TRACE", help="the file; a request on each line")
    record.add_argument("--seconds", type=positive, default=600, help="how long; default: 600")
    record.add_argument("--model", metavar="NAME", help="one of several base models; default: the server's default one")
    simulate = group.add_parser("simulate", help="replay a trace of blocks through the engine's own cache")
    simulate.add_argument("trace", type=Path, metavar="TRACE", help="a file with a request of blocks on each line")
    simulate.add_argument(
        "--blocks", type=positive, nargs="+", metavar="N", help="KV blocks of the pool; default: parts of the trace's"
    )
    simulate.add_argument(
        "--policy", action="append", choices=(*POLICIES, _BEST), help="repeatable; default: all of them"
    )
    simulate.add_argument("--plot", type=_svg_file, metavar="FILE", help="write the curves to this file, as SVG")
    add_output_flag(simulate)
    simulate.add_argument("--log-level", default="info", help="debug shows tracebacks")
    simulate.set_defaults(run=run_simulate)


def run_record(arguments: argparse.Namespace) -> int:
    """Until the time is over or the operator interrupts it; what came until then is kept."""
    _take(arguments)  # what another recording left is none of this one's
    count = lost = 0
    with _written(arguments.trace), arguments.trace.open("wb") as file, contextlib.suppress(KeyboardInterrupt):
        for taken in _recorded(arguments):
            file.writelines(map(write_line, taken.items))
            file.flush()
            count, lost = count + len(taken.items), lost + taken.lost
    emit_one(arguments.output, {"trace": str(arguments.trace), "requests": count, "lost": lost})
    return ExitCode.OK


def _recorded(arguments: argparse.Namespace) -> Iterator[_Taken]:
    ends = time.monotonic() + arguments.seconds
    while (rest := ends - time.monotonic()) > 0:
        time.sleep(min(_POLL_SECONDS, rest))
        has_more = True
        while has_more:
            taken = _take(arguments)
            yield taken
            has_more = taken.has_more


def _take(arguments: argparse.Namespace) -> _Taken:
    of_model = {} if arguments.model is None else {"model": arguments.model}
    return msgspec.json.decode(request(arguments, "POST", "/cache:trace", params=of_model).content, type=_Taken)


def run_simulate(arguments: argparse.Namespace) -> int:
    trace = read_trace_file(arguments.trace)
    if arguments.plot is not None:
        _require_writable(arguments.plot)  # now, not after minutes of replays
    policies = arguments.policy or [*POLICIES, _BEST]
    rows = []
    for num_blocks in sorted(set(arguments.blocks or _sizes(trace))):
        best = optimum(trace, num_blocks)
        rows += [_row(num_blocks, policy, _simulate(trace, num_blocks, policy, best), best) for policy in policies]
    emit(arguments.output, rows, _COLUMNS)
    if arguments.plot is not None:
        _plot(arguments.plot, rows, policies)
    return ExitCode.OK


def positive(text: str) -> int:
    """A type of argparse."""
    if not text.isascii() or not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _svg_file(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() != ".svg":
        raise argparse.ArgumentTypeError(f"{text!r} is no *.svg, which is what is written")
    return path


def _plot(path: Path, rows: Sequence[dict[str, Any]], policies: Sequence[str]) -> None:
    """What is found, and what is left to be computed, by the pool's size."""

    def lines(column: str) -> dict[str, Sequence[tuple[float, float]]]:
        of = {policy: [row for row in rows if row["policy"] == policy] for policy in policies}
        return {policy: [(row["blocks"], row[column]) for row in found] for policy, found in of.items()}

    most = max(row["computed_blocks"] for row in rows)
    panels = (
        Panel("Hit rate", lines("hit_rate"), 1.0, "{:.0%}"),
        Panel("Computed blocks", lines("computed_blocks"), max(1, most), "{:,.0f}"),
    )
    with _written(path):
        path.write_text(svg(panels, "KV blocks"), encoding="utf-8")


def _require_writable(path: Path) -> None:
    """What is there stays as it is; an empty file is left for what comes."""
    with _written(path), path.open("a"):
        pass


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    """Raises CommandError where the path cannot be written."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from None


def read_trace_file(path: Path) -> list[TracedRequest]:
    """Raises CommandError where it is none, or has no blocks."""
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
