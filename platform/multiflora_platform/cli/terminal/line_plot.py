"""Lines over sizes as an SVG file, for a browser's light or dark colours. Knows not what the lines mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 400, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 44, 48
_INNER_WIDTH, _INNER_HEIGHT = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
_LEGEND = 32
# Apart for those who see no red or no green, too, and each with dashes of its own.
_STROKES = (("#2f6fdb", ""), ("#d9730d", "7 4"), ("#7a8290", "2 4"), ("#a03fb8", "10 3 2 3"))
_Y_TICKS = 4
# Sizes that are written below an axis.
_MOST_X_TICKS = 6
_STYLE = """
text { font: 12px system-ui, sans-serif; fill: #222; }
.title { font-weight: 600; }
.grid { stroke: #8884; }
.line { fill: none; stroke-width: 2; }
svg { background: #fff; }
@media (prefers-color-scheme: dark) { text { fill: #ddd; } svg { background: #16181d; } }
"""


@dataclass(frozen=True)
class Panel:
    """One pair of axes. lines: by name, the points (size, value), sizes above 0 and growing. top: the value at the
    upper end of its axis, above 0. unit: how values are written, a format."""

    title: str
    lines: dict[str, Sequence[tuple[float, float]]]
    top: float
    unit: str


def svg(panels: Sequence[Panel], sizes_are: str) -> str:
    """The panels side by side, with the same sizes (by powers) and the same names. sizes_are: below the axes."""
    names = list(panels[0].lines)
    width, height = _WIDTH * len(panels), _HEIGHT + _LEGEND
    body = [_legend(names), *(_panel(panel, number, names, sizes_are) for number, panel in enumerate(panels))]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'{head} role="img"><style>{_STYLE}</style>\n' + "\n".join(body) + "\n</svg>\n"


def _legend(names: Sequence[str]) -> str:
    parts = []
    for at, name in enumerate(names):
        x = _LEFT + at * 120
        parts.append(
            f'<path class="line" d="M{x} 20h28" {_stroke(at)}/><text x="{x + 34}" y="24">{escape(name)}</text>'
        )
    return "".join(parts)


def _panel(panel: Panel, number: int, names: Sequence[str], sizes_are: str) -> str:
    sizes = sorted({size for line in panel.lines.values() for size, _ in line})
    parts = [f'<g transform="translate({number * _WIDTH} {_LEGEND})">']
    parts.append(f'<text class="title" x="{_LEFT}" y="{_TOP - 14}">{escape(panel.title)}</text>')
    for tick in range(_Y_TICKS + 1):
        value = panel.top * tick / _Y_TICKS
        y = _y(value, panel)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}h{_INNER_WIDTH}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{panel.unit.format(value)}</text>')
    for size in sizes[:: math.ceil(len(sizes) / _MOST_X_TICKS)]:
        x, below = _x(size, sizes), _HEIGHT - _BOTTOM + 18
        parts.append(f'<text x="{x:.1f}" y="{below}" text-anchor="middle">{size:g}</text>')
    middle = _LEFT + _INNER_WIDTH / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(sizes_are)}</text>')
    parts += [_line(panel, name, names.index(name), sizes) for name in panel.lines]
    return "".join([*parts, "</g>"])


def _line(panel: Panel, name: str, number: int, sizes: Sequence[float]) -> str:
    points = [(_x(size, sizes), _y(value, panel), size, value) for size, value in panel.lines[name]]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{_STROKES[number % len(_STROKES)][0]}">'
        f"<title>{escape(name)}, {size:g}: {panel.unit.format(value)}</title></circle>"
        for x, y, size, value in points
    )
    return f'<polyline class="line" points="{path}" {_stroke(number)}/>{dots}'


def _stroke(number: int) -> str:
    colour, dashes = _STROKES[number % len(_STROKES)]
    return f'stroke="{colour}" stroke-dasharray="{dashes}"' if dashes else f'stroke="{colour}"'


def _x(size: float, sizes: Sequence[float]) -> float:
    if len(sizes) == 1:
        return _LEFT + _INNER_WIDTH / 2
    part = math.log(size / sizes[0]) / math.log(sizes[-1] / sizes[0])
    return _LEFT + _INNER_WIDTH * part


def _y(value: float, panel: Panel) -> float:
    return _TOP + _INNER_HEIGHT * (1 - value / panel.top)
