"""Drifting traffic of each kind is named with its place; clean traffic never is."""

from __future__ import annotations

import json
import random
import uuid
from array import array
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiflora_platform.insight.drift import drift as drift_module
from multiflora_platform.insight.drift.drift import Drift, PromptPlace, PromptReader
from multiflora_platform.insight.kept_prompts import KeptPrompt, KeptPrompts, Outline
from multiflora_platform.insight.logged_request import PromptFacts
from multiflora_platform.insight.views.misses import DriftItem
from multiflora_platform.observability.observers import PromptStart

GUIDE = "You answer questions of customers, in two sentences, and you never guess. Ask for the order's number first. "
TOOLS = [{"name": name, "description": f"does {name} for a customer"} for name in ("search", "refund", "track")]
WORDS = ("amber", "birch", "cedar", "delta", "ember", "flint", "grove", "heron", "inlet", "jade", "kelp", "lotus")


class Traffic:
    """Prompts of bytes, each computed as the cache would have it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.drift = Drift(lambda base: PromptReader(self.decode, self.locate), lambda: self.now)
        self.kept = KeptPrompts()
        self.count = 0
        self.located = 0

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(list(ids)).decode("utf-8", "replace")

    def locate(self, body: msgspec.Struct, prompt: KeptPrompt, token: int, back: int) -> PromptPlace:
        self.located += 1
        return PromptPlace(0, "system", token - back)

    def send(self, text: str, tenant: str | None = "acme", outline: Outline | None = None, cached: int = 0) -> None:
        self.count += 1
        ids = array("I", list(text.encode()))
        facts = PromptFacts(
            id=str(self.count), at=self.now, tenant=tenant, model="sql", adapter="sql", version=1, digest="d", path="",
            stream=False, prompt_tokens=len(ids),
        )  # fmt: skip
        prompt = KeptPrompt(facts, ids, tenant or "", outline or Outline())
        watch = self.drift.follow(prompt, msgspec.Struct(), self.kept)
        self.kept.add(prompt)
        watch.started(PromptStart(cached, 0.0, 0.0, "diverged"))
        self.now += 2

    def items(self, tenant: str | None = None) -> list[DriftItem]:
        return self.drift.items(lambda base: 0.001, tenant, of_all=tenant is None)


def question(chance: random.Random) -> str:
    return "\nuser: " + " ".join(chance.choices(WORDS, k=chance.randrange(3, 40)))


def shuffled(chance: random.Random, things: Iterable[Any]) -> list[Any]:
    listed = list(things)
    chance.shuffle(listed)
    return listed


def at_minute(number: int) -> datetime:
    return datetime(2026, 11, 30, 9, 58, tzinfo=UTC) + timedelta(minutes=number)


VALUES: dict[str, tuple[str, Callable[[random.Random, int], str]]] = {
    "time": ("timestamp", lambda chance, number: at_minute(number).isoformat()),
    "day": ("timestamp", lambda chance, number: at_minute(number * 1440).strftime("%d %b %Y")),
    "uuid": ("uuid", lambda chance, number: str(uuid.UUID(int=chance.getrandbits(128), version=4))),
    "hex": ("nonce", lambda chance, number: f"{chance.getrandbits(64):016x}a1"[-16:]),
    "count": ("counter", lambda chance, number: str(4711 + number)),
    "both": ("timestamp", lambda chance, number: f"{at_minute(number):%Y-%m-%d %H:%M}, request {4711 + number}"),
}


@pytest.mark.parametrize("name", VALUES)
@settings(max_examples=4)
@given(st.integers(), st.text("abcdefgh .", max_size=30))
def test_a_value_at_the_top_is_named_with_its_place(name: str, seed: int, before: str) -> None:
    kind, value = VALUES[name]
    chance, traffic = random.Random(seed), Traffic()
    before = f"{before} It is "
    for number in range(12):
        traffic.send(f"{before}{value(chance, number)}. {GUIDE}{question(chance)}")
    (item,) = traffic.items()
    assert (item.kind, item.tenant, item.model, item.message, item.role) == (kind, "acme", "sql", 0, "system")
    assert item.position == len(before)
    assert item.share >= 0.8
    assert item.lost_tokens >= item.prompts * (len(GUIDE) - 32)
    assert item.lost_seconds_per_minute == pytest.approx(item.lost_tokens * 0.001)
    assert f"in the system message at character {len(before)}" in item.advice
    assert item.advice.startswith(f"{item.share:.0%} of acme's prompts differ first")


@pytest.mark.parametrize("kind", ["tools_reordered", "keys_reordered"])
@settings(max_examples=4)
@given(st.integers())
def test_another_order_is_named(kind: str, seed: int) -> None:
    chance, traffic = random.Random(seed), Traffic()
    for _ in range(30):
        if kind == "tools_reordered":
            order = shuffled(chance, range(3))
            tools, sums = [TOOLS[index] for index in order], array("I", order)
        else:
            tools, sums = [dict(shuffled(chance, tool.items())) for tool in TOOLS], array("I", range(3))
        traffic.send(f"Tools: {json.dumps(tools)} {GUIDE}{question(chance)}", outline=Outline(tools=sums))
    (item,) = traffic.items()
    assert item.kind == kind
    assert item.lost_tokens > item.prompts * len(GUIDE)


def conversations(chance: random.Random, traffic: Traffic) -> None:
    """Several turns each, with answers, of some conversations in turns."""
    talks = [f"{GUIDE}{question(chance)}" for _ in range(4)]
    for _ in range(5):
        for place, talk in enumerate(talks):
            traffic.send(f"{talk}\nassistant:")
            talks[place] = f"{talk}\nassistant: {' '.join(chance.choices(WORDS, k=12))} 17:05{question(chance)}"


def documents(chance: random.Random, traffic: Traffic) -> None:
    """Other ones behind the same instructions each time, with ids and dates as documents have them, and what is asked
    behind them."""
    tail = "\nAnswer from these documents alone, and name the one that you took."
    for _ in range(30):
        found = "".join(f"\n[doc {named(chance)}] {some_words(chance)}" for _ in range(chance.randrange(1, 4)))
        traffic.send(f"{GUIDE}{found}{tail}{question(chance)}")


def named(chance: random.Random) -> str:
    id = uuid.UUID(int=chance.getrandbits(128))
    return f"{chance.randrange(900)}, {at_minute(chance.randrange(9999)):%Y-%m-%d}, {id}"


def some_words(chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randrange(20, 60)))


def tenants(chance: random.Random, traffic: Traffic) -> None:
    for number in range(60):
        tenant = f"tenant-{chance.randrange(12)}"
        system = f"You work for {tenant}, founded {1900 + int(tenant[7:])}. {GUIDE}"
        traffic.send(f"{system}{question(chance)} at {at_minute(number):%H:%M}", tenant=tenant)


@pytest.mark.parametrize("clean", [conversations, documents, tenants])
@settings(max_examples=8)
@given(st.integers())
def test_clean_traffic_is_never_named(clean: Callable[[random.Random, Traffic], None], seed: int) -> None:
    traffic = Traffic()
    clean(random.Random(seed), traffic)
    assert traffic.items() == []


def test_a_place_that_cannot_be_told_ends_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    traffic = Traffic()
    monkeypatch.setattr(traffic, "locate", lambda *which: 1 // 0)
    for number in range(8):
        traffic.send(f"It is {at_minute(number).isoformat()}. {GUIDE}")
    assert traffic.items() == []


def test_numbers_that_do_not_grow_are_no_counter_and_what_was_found_all_the_same_is_not_missed() -> None:
    chance, traffic = random.Random(1), Traffic()
    for _ in range(60):
        traffic.send(f"The customer is {chance.randrange(18, 90)} years old. {GUIDE}{question(chance)}")
    assert traffic.items() == []
    for number in range(20):
        text = f"It is {at_minute(number).isoformat()}. {GUIDE}"
        traffic.send(text, tenant="found", cached=len(text))
    assert traffic.items("found") == []


def test_a_tenant_sees_its_own_an_hour_long_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    traffic = Traffic()
    for number in range(8):
        for tenant in ("acme", "other", None):
            traffic.send(f"It is {at_minute(number).isoformat()}. {GUIDE}", tenant=tenant)
    assert [item.tenant for item in traffic.items("acme")] == ["acme"]
    assert [item.tenant for item in traffic.drift.items(lambda base: 0.0, None)] == [None]
    assert {item.tenant for item in traffic.items()} == {"acme", "other", None}
    assert traffic.located == 6, "the template is asked once for each first token: 9:59 and 10:00 part elsewhere"
    traffic.now += 3600
    assert traffic.items() == []
    monkeypatch.setattr(drift_module, "_MOST_GROUPS", 5)
    for number in range(20):
        traffic.send(GUIDE, tenant=str(number))
    assert len(traffic.drift._groups) == 5
