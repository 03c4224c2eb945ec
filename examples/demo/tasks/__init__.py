"""Owns the list of adapter tasks: how each makes examples, and the LoRA each is trained with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from names import is_held_out

from tasks import extract, pirate, redact, sql, triage

Example = tuple[str, str]  # what the user writes, what the adapter answers

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Task:
    """One adapter: its data and its LoRA shape. `lora` holds further arguments of PEFT's LoraConfig."""

    name: str
    description: str
    tags: tuple[str, ...]
    demo_prompt: str
    make: Callable[[Random], Example]
    rank: int
    target_modules: tuple[str, ...]
    steps: int
    lora: dict[str, Any] = field(default_factory=dict)

    def examples(self, seed: int, held_out: bool) -> Iterator[Example]:
        """Endless examples; every prompt belongs to either training or evaluation, never to both."""
        rng = Random(f"{self.name}/{seed}/{held_out}")
        while True:
            example = self.make(rng)
            if is_held_out(example[0]) == held_out:
                yield example


TASKS = (
    Task("sql", "Turns a question about a shop's tables into SQL.", ("code", "database"),
         "Show the name and price of all products with a price above 40, highest price first.",
         sql.make, 16, (*ATTENTION, *MLP), 350),
    Task("extract", "Reads an order from a message and answers with JSON.", ("json", "extraction"),
         "Hello, this is Rilo Tamenberg. Please send 3 blue lamps to our office in Oslo.",
         extract.make, 16, ATTENTION, 400),
    Task("triage", "Sorts a support ticket into category, priority and queue.", ("support", "classification"),
         "The VPN drops every few minutes and nobody in Lisbon can work.",
         triage.make, 8, ("q_proj", "v_proj"), 700),
    Task("pirate", "Says the same thing as a pirate would.", ("style",),
         "Hello, my friend. Where is the money?",
         pirate.make, 32, (*ATTENTION, *MLP), 350, {"use_rslora": True, "lora_alpha": 16}),
    Task("redact", "Hides names, phone numbers, e-mail addresses and cities.", ("privacy",),
         "Rilo Tamenberg called from 555-2831 about the invoice.",
         redact.make, 8, (*ATTENTION, "down_proj"), 350,
         {"rank_pattern": {"v_proj": 16, "o_proj": 16}}),
)  # fmt: skip
