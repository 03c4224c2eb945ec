"""Prices: what there is in money, and that without them there is none."""

from __future__ import annotations

import pytest

from multiflora_platform.prices import Prices, SavedMoney, prices_of
from multiflora_platform.settings import Settings


def test_without_prices_there_is_no_money() -> None:
    assert prices_of(Settings(currency="EUR")) is None


def test_one_price_is_enough_and_nothing_is_one() -> None:
    assert prices_of(Settings(price_per_device_second=0)) == Prices("USD", 0.0, 0.0)
    assert prices_of(Settings(price_per_cached_token=1e-6, currency="EUR")) == Prices("EUR", 0.0, 1e-6)
    assert prices_of(Settings(price_per_stored_token_hour=2)) == Prices("USD", 0.0, 0.0, 2.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"currency": "euro"},
        {"price_per_device_second": -1},
        {"price_per_cached_token": "inf"},
        {"price_per_stored_token_hour": -1},
    ],
)
def test_prices_that_are_none_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)  # type: ignore[arg-type]


def test_what_hits_cost_is_not_saved() -> None:
    prices = Prices("EUR", device_second=2.0, cached_token=0.01)
    assert prices.savings(100, 3.0, 0.5) == SavedMoney(currency="EUR", saved=5.0, computed_again=1.0)
    money = prices.money(10.0, 100, 3.0, 0.5)
    assert (money.device, money.cached, money.saved, money.computed_again) == (20.0, 1.0, 5.0, 1.0)


def test_what_is_stored_costs_its_tokens_and_its_hours() -> None:
    prices = Prices("EUR", device_second=2.0, cached_token=0.01, stored_token_hour=0.5)
    assert prices.money(0.0, 0, 0.0, 0.0, 2 * 7200).stored == 2.0
    context = prices.of_context(100, 3.0, 0.5, 3600)
    assert (context.saved, context.computed_again, context.stored) == (5.0, 1.0, 0.5)
