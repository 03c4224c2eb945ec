"""The matrix products of Llama 3.1 8B with weights of 4 and 8 bits: their floor is reading the codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch

from gpu.measure import Probe, Row
from gpu.probes.gemm import WEIGHTS
from multiflora_kernels.linear.quantised import INT8, IntegerForm, QuantisedWeight

_BEYOND_L2 = 256 << 20

FORMS: dict[str, IntegerForm] = {
    "int4 g128": IntegerForm(4, 128),
    "int4 g32 zeros": IntegerForm(4, 32, has_zeros=True),
    "nf4 g64": IntegerForm(4, 64, table=tuple(code / 8 - 1 for code in range(16))),
    "int8": INT8,
    "e4m3 g128": IntegerForm(8, 128, float_type=torch.float8_e4m3fn),
}
TOKENS = (1, 16, 64, 512, 2048)
_SHAPES = {name: WEIGHTS[name] for name in ("o", "gate_up", "down")}


def narrow_probes(
    device: torch.device, shapes: Mapping[str, tuple[int, int]] = _SHAPES, tokens: Sequence[int] = TOKENS
) -> Iterator[Probe]:
    for count in tokens:
        for form in FORMS:
            for name, shape in shapes.items():
                yield Probe(f"{form} {name}, M={count}", partial(_row, form, name, shape, count, device))


def _row(form: str, name: str, shape: tuple[int, int], tokens: int, device: torch.device) -> Row:
    """On copies of the weight that together are larger than the L2, as those of the layers are."""
    first = random_weight(FORMS[form], shape, device)
    copies = -(-_BEYOND_L2 // first.nbytes) if device.type == "cuda" else 1
    weights = [first, *(random_weight(FORMS[form], shape, device) for _ in range(copies - 1))]
    x = torch.randn(tokens, shape[1], device=device, dtype=torch.bfloat16)
    moved = copies * (first.nbytes + x.nbytes + 2 * tokens * shape[0])
    return Row(
        f"{form} {name}",
        f"M={tokens} x{copies}",
        float(moved),
        2.0 * copies * tokens * shape[0] * shape[1],
        lambda: [weight.matmul(x) for weight in weights],
    )


def random_weight(form: IntegerForm, shape: tuple[int, int], device: torch.device) -> QuantisedWeight:
    """Any codes but floats' NaN, of one scale."""
    weight = QuantisedWeight.empty(form, shape, torch.bfloat16, device)
    codes, scales, *zeros = weight.tensors
    codes.random_(0, 120)
    scales.fill_(1 / 1024)
    for part in zeros:
        part.fill_(8)
    return weight
