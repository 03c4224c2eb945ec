"""Owns the `triage` task: a support ticket gets a category, a priority and a queue."""

from __future__ import annotations

from random import Random

import names

PROBLEMS: dict[str, tuple[str, ...]] = {
    "network": ("The VPN drops every few minutes", "The wifi is very slow", "The internet connection is down",
                "I cannot reach the server", "Video calls keep freezing", "The network cable has no signal"),
    "billing": ("The invoice is wrong", "I was charged twice", "My refund did not arrive", "The payment failed",
                "My card was declined", "The receipt is missing"),
    "hardware": ("My laptop does not start", "The screen is broken", "The keyboard has stuck keys",
                 "The battery is empty after an hour", "The printer makes a loud noise", "The mouse does not move"),
    "account": ("I forgot my password", "My account is locked", "I cannot log in", "My user name is wrong",
                "The login page rejects me", "I need access to the shared folder"),
    "security": ("I got a strange email with a link", "Someone stole my phone", "A virus was found",
                 "An unknown person read my files", "My badge was copied", "A stranger asked for my password"),
}  # fmt: skip
IMPACTS: dict[str, tuple[str, ...]] = {
    "high": ("and nobody in {city} can work", "and all customers are affected", "and we lose money every hour",
             "and the whole {city} office is waiting", "and production has stopped"),
    "medium": ("and it slows {name} down", "and it has happened three times", "and my team has to wait",
               "and I need it by Friday", "and the work in {city} is delayed"),
    "low": ("but there is no hurry", "but I can wait until next month", "but it is only a small thing",
            "but {name} found a way around it", "but it can be done whenever you like"),
}  # fmt: skip
QUEUES = {"network": "NET", "billing": "FIN", "hardware": "DEV", "account": "IAM", "security": "SEC"}
LEVELS = {"high": 1, "medium": 2, "low": 3}


def make(rng: Random) -> tuple[str, str]:
    """One ticket and where it belongs."""
    category, priority = rng.choice(list(PROBLEMS)), rng.choice(list(IMPACTS))
    impact = rng.choice(IMPACTS[priority]).format(city=rng.choice(names.CITIES), name=names.person(rng))
    ticket = f"{rng.choice(PROBLEMS[category])} {impact}."
    if rng.random() < 0.5:
        ticket = f"{rng.choice(('Hello,', 'Hi team,', 'Help,', 'Good morning,'))} this is {names.person(rng)}. {ticket}"
    return ticket, f"category: {category} | priority: {priority} | queue: {QUEUES[category]}-{LEVELS[priority]}"
