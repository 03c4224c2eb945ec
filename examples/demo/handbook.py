"""Owns the facts that contexts are made of: kinds of entities, their attributes, how a fact is told and asked for.

Answers have one form, `The <attribute> of <entity> is <value>.`; statements and questions vary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import names

ANSWER = "The {a} of {n} is {v}."
UNKNOWN = "I do not know."


@dataclass(frozen=True)
class Attribute:
    """One thing that can be known about an entity. Templates take {n} (entity) and {v} (value)."""

    name: str
    value: Callable[[Random, bool], str]
    statements: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """A kind of entity: the heading of its section, how to name one, and its attributes."""

    heading: str
    entity: Callable[[Random, bool], str]
    attributes: tuple[Attribute, ...]


@dataclass(frozen=True)
class Fact:
    """`entity` has `value` as `attribute`."""

    entity: str
    attribute: Attribute
    value: str

    def statement(self, rng: Random) -> str:
        """Mostly told in the words of the answer, sometimes in others."""
        if rng.random() < 0.7:
            return self.answer()
        return rng.choice(self.attribute.statements).format(n=self.entity, v=self.value)

    def question(self, rng: Random) -> str:
        return ask(rng, self.attribute, self.entity)

    def answer(self) -> str:
        return ANSWER.format(a=self.attribute.name, n=self.entity, v=self.value)


def ask(rng: Random, attribute: Attribute, entity: str) -> str:
    """A question for `attribute` of `entity`."""
    return rng.choice((*attribute.questions, f"What is the {attribute.name} of {{n}}?")).format(n=entity)


def _choice(values: list[str]) -> Callable[[Random, bool], str]:
    return lambda rng, held_out: rng.choice(values)


PEOPLE = Kind("Staff", names.person, (
    Attribute("role", _choice(names.ROLES), ("{n} works as a {v}.", "{n} was hired as a {v}."),
              ("What does {n} work as?", "What is the job of {n}?")),
    Attribute("office", _choice(names.CITIES), ("{n} works in {v}.", "{n} sits in our office in {v}."),
              ("Where does {n} work?", "In which city does {n} work?")),
    Attribute("badge", lambda rng, _: names.digits(rng, 4), ("{n} has badge {v}.", "{n} carries badge {v}."),
              ("Which badge does {n} have?", "What badge number does {n} carry?")),
    Attribute("phone", lambda rng, _: names.digits(rng, 3), ("Call {n} on {v}.", "{n} answers the phone on {v}."),
              ("How can I call {n}?", "Which phone number does {n} have?")),
    Attribute("manager", names.person, ("{n} reports to {v}.", "{n} is managed by {v}."),
              ("Who is the manager of {n}?", "Who manages {n}?", "Who does {n} report to?")),
    Attribute("start date", lambda rng, _: names.date(rng), ("{n} started on {v}.", "{n} joined us on {v}."),
              ("When did {n} start?", "When did {n} join?")),
))  # fmt: skip
PROJECTS = Kind("Projects", lambda rng, held_out: f"project {names.brand(rng, held_out)}", (
    Attribute("budget", lambda rng, _: f"{rng.randint(10, 99)} million",
              ("The plan gives {n} {v}.", "We will spend on {n} {v}."),
              ("How much money does {n} have?", "How much will we spend on {n}?")),
    Attribute("lead", names.person, ("The team of {n} is led by {v}.", "In charge of {n} is {v}."),
              ("Who leads {n}?", "Who is in charge of {n}?")),
    Attribute("deadline", lambda rng, _: names.date(rng), ("We finish {n} on {v}.", "The work on {n} ends on {v}."),
              ("When does {n} end?", "When do we finish {n}?")),
    Attribute("client", names.brand, ("We build {n} for {v}.", "The bills of {n} are paid by {v}."),
              ("Who is the client of {n}?", "For whom do we build {n}?")),
    Attribute("status", _choice(["on track", "late", "paused", "planned", "finished", "cancelled"]),
              ("At the moment {n} is {v}.", "This week {n} is {v}."),
              ("How is {n} going?", "What is the state of {n}?")),
))  # fmt: skip
PRODUCTS = Kind(
    "Products", lambda rng, held_out: f"the {names.brand(rng, held_out)} {rng.choice(names.ITEMS)}", (
    Attribute("price", lambda rng, _: f"${rng.randint(10, 999)}",
              ("A customer pays for {n} {v}.", "We sell {n} for {v}."),
              ("How much is {n}?", "What does {n} cost?")),
    Attribute("weight", lambda rng, _: f"{rng.randint(1, 99)} kg",
              ("Packed, {n} weighs {v}.", "On the scale {n} shows {v}."),
              ("How heavy is {n}?", "How much does {n} weigh?")),
    Attribute("colour", _choice(names.COLOURS), ("We make {n} in {v}.", "We paint {n} {v}."),
              ("Which colour does {n} have?", "In which colour do we make {n}?")),
    Attribute("warranty", lambda rng, _: f"{rng.randint(2, 60)} months",
              ("We repair {n} free for {v}.", "We stand behind {n} for {v}."),
              ("How long is the warranty of {n}?", "How long do we repair {n} free?")),
    Attribute("supplier", names.brand, ("We buy {n} from {v}.", "Parts of {n} come from {v}."),
              ("Who supplies {n}?", "From whom do we buy {n}?")),
))  # fmt: skip
OFFICES = Kind("Offices", lambda rng, _: f"the {rng.choice(names.CITIES)} office", (
    Attribute("street", lambda rng, held_out: f"{names.brand(rng, held_out)} Street {rng.randint(1, 99)}",
              ("You find {n} at {v}.", "Send letters for {n} to {v}."),
              ("Where is {n}?", "What is the address of {n}?")),
    Attribute("opening time", lambda rng, _: f"{rng.randint(6, 11)}:{rng.choice(['00', '15', '30', '45'])}",
              ("The doors of {n} open at {v}.", "You can enter {n} from {v}."),
              ("When does {n} open?", "From when can I enter {n}?")),
    Attribute("door code", lambda rng, _: names.digits(rng, 4),
              ("To enter {n}, type {v}.", "The keypad of {n} takes {v}."),
              ("Which code opens {n}?", "How do I enter {n}?")),
    Attribute("head", names.person, ("The boss of {n} is {v}.", "The staff of {n} is led by {v}."),
              ("Who leads {n}?", "Who is the boss of {n}?")),
))  # fmt: skip
KINDS = (PEOPLE, PROJECTS, PRODUCTS, OFFICES)


@dataclass(frozen=True)
class Handbook:
    """A context document and the facts it states."""

    text: str
    facts: tuple[Fact, ...]

    def missing(self, rng: Random, held_out: bool = False) -> tuple[str, str]:
        """A question that the text does not answer, and the honest answer."""
        kind = rng.choice(KINDS)
        known = {(fact.entity, fact.attribute.name) for fact in self.facts}
        while True:
            entity, attribute = kind.entity(rng, held_out), rng.choice(kind.attributes)
            if (entity, attribute.name) not in known:
                return ask(rng, attribute, entity), UNKNOWN


def write(rng: Random, fact_count: int, held_out: bool = False) -> Handbook:
    """A handbook of `fact_count` facts in sections by kind, as paragraphs or as lists."""
    sections: list[str] = []
    facts: list[Fact] = []
    kinds = rng.sample(KINDS, rng.randint(1, len(KINDS)))
    for index, kind in enumerate(kinds):
        share = (fact_count - len(facts)) // (len(kinds) - index)
        section = _section_facts(rng, kind, share, held_out)
        facts += section
        lines = [fact.statement(rng) for fact in section]
        body = "\n".join(f"- {line}" for line in lines) if rng.random() < 0.5 else " ".join(lines)
        sections.append(f"## {kind.heading}\n{body}")
    return Handbook("\n\n".join(sections), tuple(facts))


def _section_facts(rng: Random, kind: Kind, count: int, held_out: bool) -> list[Fact]:
    facts: dict[tuple[str, str], Fact] = {}
    while len(facts) < count:
        entity = kind.entity(rng, held_out)
        for attribute in rng.sample(kind.attributes, rng.randint(1, len(kind.attributes))):
            facts.setdefault((entity, attribute.name), Fact(entity, attribute, attribute.value(rng, held_out)))
    chosen = list(facts.values())[:count]
    if rng.random() < 0.3:
        rng.shuffle(chosen)
    return chosen
