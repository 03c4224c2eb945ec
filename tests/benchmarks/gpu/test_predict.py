"""The predicted floors are those that were worked out by hand for one H200."""

from __future__ import annotations

import pytest

from gpu.llama import LLAMA_8B, model_config
from gpu.predict import CARDS, decode_rows, prefill_rows, table

MODEL = model_config(LLAMA_8B)


def _h200(line: str) -> float:
    return float(line.split()[-len(CARDS)])


@pytest.mark.parametrize(
    ("batch", "context", "milliseconds"),
    [
        (1, 512, 3.51),
        (1, 2048, 3.55),
        (32, 512, 3.99),
        (32, 2048, 5.49),
        (64, 2048, 7.49),
        (128, 2048, 11.48),
        (256, 512, 8.86),
        (256, 2048, 20.85),
    ],
)
def test_floor_of_a_decode_step(batch: int, context: int, milliseconds: float) -> None:
    assert _h200(list(decode_rows(MODEL, batch, context, 0))[-1]) == pytest.approx(milliseconds, rel=0.01)


@pytest.mark.parametrize(("batch", "adapters", "percent"), [(1, 1, 0.6), (32, 8, 3.9), (64, 64, 27.8)])
def test_least_tax_of_adapters(batch: int, adapters: int, percent: float) -> None:
    base, adapted = (_h200(list(decode_rows(MODEL, batch, 512, n))[-1]) for n in (0, adapters))
    assert 100 * (adapted / base - 1) == pytest.approx(percent, rel=0.1)


@pytest.mark.parametrize(("tokens", "milliseconds"), [(1024, 18.4), (8192, 167), (32768, 935)])
def test_floor_of_a_prefill(tokens: int, milliseconds: float) -> None:
    assert _h200(list(prefill_rows(MODEL, tokens))[-1]) == pytest.approx(milliseconds, rel=0.03)


def test_all_is_the_sum_of_its_operations() -> None:
    *parts, whole = (_h200(line) for line in decode_rows(MODEL, 256, 2048, 8))
    assert whole == pytest.approx(sum(parts), abs=0.002)
    assert len(list(table())) == 1 + 14 * 4 + 3 * 4
