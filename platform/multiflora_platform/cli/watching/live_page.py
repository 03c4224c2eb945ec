"""The page of `multiflora top`: numbers in, lines out. Lines are cut by what the terminal shows of their characters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

from rich.cells import cell_len, set_cell_size
from rich.filesize import decimal
from rich.text import Text

from multiflora_platform.cli.watching.live_numbers import (
    RATE_SECONDS,
    SORT_KEYS,
    WINDOW_SECONDS,
    Numbers,
    sorted_by,
)

Cells = tuple[str, ...]
Fact = tuple[str, str]
"""What it is called, and what it is."""

_GAP = "  "
_ADAPTERS = ("adapter", "running", "requests", "tokens", "errors", "p95")
_REQUESTS = ("request", "tenant", "stage", "seconds", "prompt", "tokens")
_NARROWEST_NAME = 8
_FEWEST_ROWS = 3
_STYLES = {"error": "bold red", "warning": "yellow"}
_LESS = "The server tells this key no more; an admin key sees all."


def page(numbers: Numbers, sort: str, width: int, height: int | None = None, trouble: str = "") -> list[Text]:
    """Lines of at most `width` cells. height: how many lines there is room for; None: for all. trouble: what to tell
    above the numbers, which are the last ones."""
    lines = [_head(numbers)]
    lines += [Text(_printable(trouble), style="bold red")] if trouble else []
    lines += _flow(_facts(numbers), width)
    lines += [_alert(alert) for alert in numbers.alerts or ()]
    if numbers.adapters is None:
        lines += [Text(), Text(_LESS)]
    else:
        room = None if height is None else height - len(lines)
        lines += _tables(numbers, sort, width, room)
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines if height is None else lines[:height]


def keys_line(sort: str, width: int) -> Text:
    """Which keys there are: the first letter of a column sorts by it."""
    line = Text("q quit   sort by")
    for column in SORT_KEYS:
        line.append("  ")
        line.append(column[0], style="underline")
        line.append(f" {column}", style="bold" if column == sort else "dim")
    line.truncate(width, overflow="ellipsis")
    return line


def _head(numbers: Numbers) -> Text:
    up = None if numbers.up_seconds is None else f"up {timedelta(seconds=int(numbers.up_seconds))}"
    time = datetime.fromtimestamp(numbers.at, UTC).strftime("%H:%M:%S UTC")
    line = Text(f"multiflora {numbers.version or ''}".strip(), style="bold")
    for part in (numbers.url, up, time):
        if part is not None:
            line.append(f"{_GAP}{_printable(part)}", style="not bold")
    return line


def _facts(numbers: Numbers) -> list[Fact]:
    """What is told."""
    facts = [
        ("models", ", ".join(_printable(f"{row['name']} {row['state']}") for row in numbers.models or ())),
        ("engines", _counted(row["state"] for row in numbers.replicas or ())),
        ("requests/s", _number(numbers.requests_per_second)),
        ("errors/s", _number(numbers.errors_per_second)),
        ("tokens/s", _number(numbers.tokens_per_second)),
        ("running", _number(numbers.running)),
        ("waiting", _number(numbers.waiting)),
        ("TTFT p50", _seconds(numbers.ttft_p50)),
        ("TTFT p95", _seconds(numbers.ttft_p95)),
        ("KV blocks", _blocks(numbers)),
        ("cache hits", "" if numbers.cache_hit_rate is None else f"{numbers.cache_hit_rate:.0%}"),
        ("gateway", _bytes(numbers.gateway_bytes)),
        ("engine", _bytes(numbers.engine_bytes)),
    ]
    return [(name, value) for name, value in facts if value]


def _counted(states: Iterable[str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in Counter(states).most_common())


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


def _bytes(value: int | None) -> str:
    return "" if value is None else decimal(value)


def _blocks(numbers: Numbers) -> str:
    if numbers.kv_blocks is None or numbers.kv_blocks_used is None:
        return ""
    return f"{numbers.kv_blocks_used:,} of {numbers.kv_blocks:,}"


def _flow(facts: Sequence[Fact], width: int) -> Iterator[Text]:
    """As many on a line as find room."""
    line = Text()
    for name, value in facts:
        fact = Text.assemble((name, "dim"), " ", (value, "bold"))
        if line and line.cell_len + len(_GAP) + fact.cell_len > width:
            yield line
            line = Text()
        line.append_text(Text(_GAP) if line else Text()).append_text(fact)
    if line:
        yield line


def _alert(alert: dict[str, str]) -> Text:
    told = _printable(f"{alert['severity']}: {alert['title']} {alert['next_step']}")
    return Text(told, style=_STYLES.get(alert["severity"], ""))


def _tables(numbers: Numbers, sort: str, width: int, room: int | None) -> Iterator[Text]:
    """The adapters, and below the requests that run; each has its blank line and its head."""
    adapters: list[Cells] = [
        (
            load.name,
            str(load.running),
            f"{load.requests:,}",
            f"{load.tokens:,}",
            f"{load.errors:,}",
            _seconds(load.p95_seconds),
        )
        for load in sorted_by(numbers, sort).adapters or ()
    ]
    requests: list[Cells] = [
        (
            f"{request.id[:8]} {request.name}",
            request.tenant or "",
            request.stage,
            f"{request.seconds:.1f}",
            f"{request.prompt_tokens:,}",
            f"{request.tokens:,}",
        )
        for request in numbers.requests or ()
    ]
    for_adapters, for_requests = _rooms(len(adapters), len(requests), room)
    title = f"the last {WINDOW_SECONDS} s; rates above: {RATE_SECONDS} s"
    yield from _table(_ADAPTERS, adapters, width, for_adapters, title, sort.replace("name", "adapter"))
    if requests:
        yield from _table(_REQUESTS, requests, width, for_requests, "running now", "seconds")


def _rooms(adapters: int, requests: int, room: int | None) -> tuple[int | None, int | None]:
    """Rows for both tables. The requests get what the adapters leave, at least a third."""
    if room is None:
        return None, None
    heads = 3 if not requests else 6
    rows = max(2 * _FEWEST_ROWS, room - heads)
    for_requests = min(requests, max(rows // 3, rows - adapters))
    return rows - for_requests, for_requests


def _table(
    columns: Cells, rows: Sequence[Cells], width: int, room: int | None, title: str, sorted_by: str
) -> Iterator[Text]:
    shown = list(rows) if room is None or len(rows) <= room else list(rows)[: max(0, room - 1)]
    yield Text()
    yield Text(title, style="dim")
    head = tuple(f"{column.upper()}{'↓' if column == sorted_by else ''}" for column in columns)
    lines = [tuple(map(_printable, row)) for row in (head, *shown)]
    widths = [max(cell_len(row[column]) for row in lines) for column in range(len(columns))]
    rest = sum(widths[1:]) + len(_GAP) * (len(columns) - 1)
    widths[0] = min(widths[0], max(_NARROWEST_NAME, width - rest))
    for number, row in enumerate(lines):
        cells = [
            set_cell_size(row[0], widths[0]),
            *(_right(cell, size) for cell, size in zip(row[1:], widths[1:], strict=True)),
        ]
        yield Text(_GAP.join(cells), style="reverse" if number == 0 else "")
    if len(shown) < len(rows):
        yield Text(f"… {len(rows) - len(shown)} more", style="dim")


def _right(cell: str, size: int) -> str:
    return " " * (size - cell_len(cell)) + cell


def _printable(text: str) -> str:
    """Names and messages come from clients and files: what would move the cursor must not reach the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
