"""Whether products are made in integers on this machine, by what, and from how many rows on: measured, not believed.

Knows neither models nor what asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache, partial

import torch

from multiflora_kernels.linear.integer import IntegerWay, Kind, integer_linear
from multiflora_kernels.linear.measuring import SIZE, Seconds, first_row_without_loss, found_once, seconds_by_rows
from multiflora_kernels.linear.narrow import narrow_linear
from multiflora_kernels.linear.narrow_matrix import NarrowMatrix
from multiflora_kernels.runtime.native import library
from multiflora_kernels.runtime.processor import Processor, this_processor

TABLE = "integer_products"
"""Of the machine's cache: what was measured, by what it depends on."""

_LEAST_GAIN = 1.1
"""Of the most rows, below which rounding activations is not worth it."""


def candidates(processor: Processor, has_library: bool) -> tuple[Kind, ...]:
    """Ways that may be fast there. oneDNN multiplies bytes one by one where no instruction does."""
    ways: list[Kind] = ["words"] if has_library else []
    return (*ways, "bytes") if processor.multiplies_int8 else tuple(ways)


def choose(in_floats: Seconds, in_integers: Mapping[Kind, Seconds]) -> IntegerWay | None:
    """The way that is fastest with the most rows, from where on it never loses; None: floats are as fast."""
    most = max(in_floats)
    kind = min(in_integers, key=lambda kind: in_integers[kind][most], default=None)
    if kind is None or in_integers[kind][most] * _LEAST_GAIN > in_floats[most]:
        return None
    least = first_row_without_loss(in_integers[kind], in_floats)
    assert least is not None, "it was faster with the most rows"
    return IntegerWay(kind, least)


@cache
def integer_way() -> IntegerWay | None:
    """Of this process, the same from the first call on; None: activations stay floats. Measured once on each machine,
    in about a tenth of a second, and looked up from then on."""
    return _read(found_once(TABLE, lambda: _written(measured_way())))


def measured_way() -> IntegerWay | None:
    """What `integer_way` remembers."""
    kinds = [kind for kind in candidates(this_processor(), library() is not None) if is_exact(kind)]
    codes = torch.randint(-127, 128, (SIZE, SIZE)).to(torch.int8)
    weight = NarrowMatrix(codes, torch.rand(SIZE, 1) / 127).with_sums()
    in_integers = {
        kind: seconds_by_rows(partial(integer_linear, w=weight, bias=None, way=IntegerWay(kind, 1))) for kind in kinds
    }
    return choose(seconds_by_rows(partial(narrow_linear, w=weight)), in_integers)


def is_exact(kind: Kind) -> bool:
    """Whether the largest sums come out right: a library may multiply bytes with instructions that saturate."""
    k = 512
    signs = torch.tensor([[1.0], [-1.0]]).repeat(4, 1)
    weight = NarrowMatrix((signs * 127).expand(8, k).to(torch.int8).contiguous(), torch.full((8, 1), 1 / 127))
    x = signs.expand(8, k).contiguous()
    y = integer_linear(x, weight, None, IntegerWay(kind, 1))
    return torch.allclose(y, k * signs @ signs.t(), rtol=1e-5)


def _written(way: IntegerWay | None) -> dict[str, object]:
    return {} if way is None else asdict(way)


def _read(found: object) -> IntegerWay | None:
    """What `_written` made; anything else, which another version or the user may have written, means floats."""
    match found:
        case {"kind": "words" | "bytes" as kind, "least_rows": int(rows)}:
            return IntegerWay(kind, rows)
    return None
