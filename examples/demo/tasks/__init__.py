"""Owns the list of adapter tasks: how each makes examples, and the LoRA each is trained with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from names import is_held_out

from tasks import extract, pirate, redact, sql, tools, triage

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Example:
    """What the adapter reads (messages, and tools on offer) and the answer that it writes."""

    messages: tuple[dict[str, Any], ...]
    answer: str
    tools: tuple[dict[str, Any], ...] = ()

    @property
    def prompt(self) -> str:
        """The user's words, by which training and evaluation are kept apart."""
        return next(str(message["content"]) for message in self.messages if message["role"] == "user")


def one_turn(make: Callable[[Random], tuple[str, str]]) -> Callable[[Random], Example]:
    """Of a task that makes (what the user writes, what the adapter answers)."""

    def example(rng: Random) -> Example:
        prompt, answer = make(rng)
        return Example(({"role": "user", "content": prompt},), answer)

    return example


def with_tools(rng: Random) -> Example:
    """Of the `tools` task."""
    use = tools.make(rng)
    return Example(use.messages, use.answer, use.tools)


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
            if is_held_out(example.prompt) == held_out:
                yield example


TASKS = (
    Task("sql", "Turns a question about a shop's tables into SQL.", ("code", "database"),
         "Show the name and price of all products with a price above 40, highest price first.",
         one_turn(sql.make), 16, (*ATTENTION, *MLP), 350),
    Task("extract", "Reads an order from a message and answers with JSON.", ("json", "extraction"),
         "Hello, this is Rilo Tamenberg. Please send 3 blue lamps to our office in Oslo.",
         one_turn(extract.make), 16, ATTENTION, 400),
    Task("triage", "Sorts a support ticket into category, priority and queue.", ("support", "classification"),
         "The VPN drops every few minutes and nobody in Lisbon can work.",
         one_turn(triage.make), 8, ("q_proj", "v_proj"), 700),
    Task("pirate", "Says the same thing as a pirate would.", ("style",),
         "Hello, my friend. Where is the money?",
         one_turn(pirate.make), 32, (*ATTENTION, *MLP), 350, {"use_rslora": True, "lora_alpha": 16}),
    Task("redact", "Hides names, phone numbers, e-mail addresses and cities.", ("privacy",),
         "Rilo Tamenberg called from 555-2831 about the invoice.",
         one_turn(redact.make), 8, (*ATTENTION, "down_proj"), 350,
         {"rank_pattern": {"v_proj": 16, "o_proj": 16}}),
    Task("tools", "Calls the functions that a request offers, and answers from what they return.", ("tools",),
         "What is the weather in Oslo?",
         with_tools, 16, (*ATTENTION, *MLP), 450),
)  # fmt: skip
