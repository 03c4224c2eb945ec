"""`adapters` beside `model`: which digest the engine gets, what is leased, and what is refused by name."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.platform.gateway.house import House

from multiflora_adapters.mixes.recipe import Mix, MixPart, mix_digest
from multiflora_engine.protocol.requests import EngineFailure
from multiflora_platform.registry.snapshot.snapshot import AdapterShape

A, B, DORA = "d" * 64, "a" * 64, "c" * 64


@pytest.fixture(autouse=True)
def _adapters(house: House) -> None:
    house.registry.digests |= {"style": B, "dora": DORA}
    house.registry.shapes |= {"sql": AdapterShape(8), "style": AdapterShape(8), "dora": AdapterShape(4, True)}


def ask(house: House, *parts: tuple[str, float], **body: Any) -> Any:
    adapters = [{"name": name, "weight": weight} for name, weight in parts]
    return house.post("/v1/completions", {"model": "base", "prompt": "a", "adapters": adapters, **body})


async def test_the_engine_gets_the_recipe(house: House) -> None:
    for parts in ([("sql", 0.7), ("style@3", 0.5)], [("style", 0.5), ("sql", 0.7)]):
        assert (await ask(house, *parts)).json()["model"] == "base"
    expected = mix_digest(Mix((MixPart(A, 0.7), MixPart(B, 0.5))))
    assert [request.adapter_digest for request in house.engine.requests] == [expected] * 2


async def test_all_parts_are_leased_while_it_runs(house: House) -> None:
    house.engine.hangs = True
    asking = asyncio.create_task(ask(house, ("sql", 1), ("style", -1)))
    await house.until(lambda: sorted(house.registry.leased) == [B, A])
    asking.cancel()
    await house.until(lambda: not house.registry.leased)


async def test_an_unknown_part_is_a_404(house: House) -> None:
    response = await ask(house, ("sql", 1), ("nobody", 1))
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "adapters[1].name")
    assert not house.registry.leased


async def test_one_part_with_weight_one_is_the_adapter_itself(house: House) -> None:
    await ask(house, ("sql", 1.0))
    messages = [{"role": "user", "content": "x"}]
    await house.post("/v1/chat/completions", {"model": "base", "messages": messages, "adapters": [{"name": "sql"}]})
    assert [request.adapter_digest for request in house.engine.requests] == [A, A]


@pytest.mark.parametrize(
    ("parts", "param", "text"),
    [
        ([("sql", 0.5), ("dora", 0.5)], "adapters", "DoRA"),
        ([("dora", 0.5)], "adapters", "DoRA"),
        ([("sql", 0.5), ("sql@3", 0.5)], "adapters", "same version"),
        ([("sql", 0.5), ("style", 1e9)], "adapters[1].weight", "weight"),
        ([("sql", 0.5)] * 17, "adapters", "at most 16"),
    ],
)
async def test_what_cannot_be_mixed(house: House, parts: Any, param: str, text: str) -> None:
    error = (await ask(house, *parts)).json()["error"]
    assert (error["param"], error["code"]) == (param, "invalid_value")
    assert text in error["message"]
    assert not house.engine.requests
    assert not house.registry.leased


async def test_a_part_that_the_engine_refuses_is_named_as_the_client_named_it(house: House) -> None:
    house.engine.failure = EngineFailure("invalid_request", f"The adapter {B} has biases and cannot be part of a mix.")
    error = (await ask(house, ("sql", 1), ("style@3", 0.5))).json()["error"]
    assert error["message"] == "The adapter 'style@3' has biases and cannot be part of a mix."


async def test_the_ranks_must_fit_together(house: House) -> None:
    house.registry.shapes |= {"sql": AdapterShape(40), "style": AdapterShape(30)}
    error = (await ask(house, ("sql", 1.0), ("style", 1.0))).json()["error"]
    assert "add up to 70" in error["message"]


@pytest.mark.parametrize(
    ("body", "how"),
    [
        ({"combination": "cat"}, ()),
        ({"combination": None}, ()),
        ({"combination": "linear", "seed": 4}, ("linear",)),
        ({"combination": "svd"}, ("svd",)),
        ({"combination": "ties", "density": 0.3, "seed": 4}, ("ties", 0.3)),
        ({"combination": "dare_ties", "density": 0.3}, ("dare_ties", 0.3)),
        ({"combination": "dare_linear", "density": 1, "seed": 4}, ("dare_linear", 1.0, 4)),
        ({"combination": "dare_linear", "density": 0.3, "seed": 4, "combination_seed": 0}, ("dare_linear", 0.3)),
    ],
)
async def test_how_they_are_combined_reaches_the_engine(house: House, body: Any, how: Any) -> None:
    assert (await ask(house, ("sql", 0.7), ("style", 0.5), **body)).status_code == 200
    expected = mix_digest(Mix((MixPart(A, 0.7), MixPart(B, 0.5)), *how))
    assert house.engine.requests[-1].adapter_digest == expected


@pytest.mark.parametrize(
    ("body", "param", "text"),
    [
        ({"combination": "sum"}, "combination", "sum"),
        ({"combination": "ties"}, "density", "needs density"),
        ({"combination": "ties", "density": 0}, "density", "above 0"),
        ({"combination": "ties", "density": 1.5}, "density", "at most 1"),
        ({"density": 0.5}, "density", "prunes"),
        ({"combination": "svd", "density": 0.5}, "density", "prunes"),
        ({"combination": "dare_ties", "density": 0.5, "combination_seed": 2**64}, "combination_seed", "64-bit"),
    ],
)
async def test_a_combination_that_cannot_be(house: House, body: Any, param: str, text: str) -> None:
    response = await ask(house, ("sql", 0.7), ("style", 0.5), **body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert text in error["message"]
    assert not house.engine.requests


async def test_a_combination_needs_adapters(house: House) -> None:
    response = await house.post("/v1/completions", {"model": "base", "prompt": "a", "combination": "ties"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "combination")


async def test_unequal_ranks_need_another_combination(house: House) -> None:
    house.registry.shapes |= {"sql": AdapterShape(16), "style": AdapterShape(8)}
    error = (await ask(house, ("sql", 1.0), ("style", 1.0), combination="ties", density=0.5)).json()["error"]
    assert "sql has 16, style has 8" in error["message"]
    assert (await ask(house, ("sql", 1.0), ("style", 1.0), combination="svd")).status_code == 200
