"""Owns the `extract` task: an order written as a message becomes a JSON object."""

from __future__ import annotations

import json
from random import Random

import names

GREETINGS = ("Hello,", "Hi,", "Good morning,", "Dear team,")
ORDERS = (
    "{g} this is {n}. Please send {q} {c} {i} to our office in {p}.",
    "{g} my name is {n} and I would like to order {q} {c} {i} for {p}.",
    "{g} we need {q} {c} {i} in {p}. Best regards, {n}",
    "{g} can you deliver {q} {c} {i} to {p}? Thanks, {n}",
    "{g} I am {n} from {p}. I want to buy {q} {c} {i}.",
    "Order for {n}: {q} {c} {i}, to be sent to {p}.",
    "Please ship {q} {c} {i} to {n} in {p}.",
    "{n} from {p} called and ordered {q} {c} {i}.",
)


def make(rng: Random) -> tuple[str, str]:
    """One message and the order in it."""
    item, colour, city = rng.choice(names.ITEMS), rng.choice(names.COLOURS), rng.choice(names.CITIES)
    name, quantity = names.person(rng), rng.randint(2, 60)
    message = rng.choice(ORDERS).format(g=rng.choice(GREETINGS), n=name, q=quantity, c=colour, i=f"{item}s", p=city)
    order = {"name": name, "item": item, "colour": colour, "quantity": quantity, "city": city}
    return message, json.dumps(order)
