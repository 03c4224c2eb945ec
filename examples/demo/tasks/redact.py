"""Owns the `redact` task: a sentence is copied with personal data replaced by what kind of data it was."""

from __future__ import annotations

from random import Random

import names

SENTENCES = (
    "{name} called from {phone} about the invoice.",
    "Please write to {email} or call {phone}.",
    "My name is {name} and I live in {city}.",
    "The parcel for {name} was sent to {city}.",
    "We met {name} in {city} to sign the contract.",
    "Send the report to {email} before noon.",
    "{name} lost the key and wants a new one.",
    "You can reach {name} under {phone} after lunch.",
    "The new phone number is {phone}.",
    "The customer {name} moved to {city} in {month}.",
    "Ask {name} for the {item}, the address is {email}.",
    "The {role} in {city} is called {name}.",
    "Nobody answered {phone}, so we wrote to {email}.",
    "The meeting in {city} starts at 9:30.",
)
LABELS = {"name": "[NAME]", "phone": "[PHONE]", "email": "[EMAIL]", "city": "[CITY]"}


def make(rng: Random) -> tuple[str, str]:
    """One or two sentences and their redacted form."""
    pairs = [_sentence(rng) for _ in range(rng.randint(1, 2))]
    return " ".join(plain for plain, _ in pairs), " ".join(redacted for _, redacted in pairs)


def _sentence(rng: Random) -> tuple[str, str]:
    template = rng.choice(SENTENCES)
    harmless = {"month": rng.choice(names.MONTHS), "item": rng.choice(names.ITEMS), "role": rng.choice(names.ROLES)}
    private = {
        "name": names.person(rng),
        "phone": f"555-{names.digits(rng, 4)}",
        "email": f"{names.first_name(rng).lower()}@{names.brand(rng).lower()}.com",
        "city": rng.choice(names.CITIES),
    }
    return template.format(**harmless, **private), template.format(**harmless, **LABELS)
