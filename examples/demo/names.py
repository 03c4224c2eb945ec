"""Owns the invented people, companies and places of the demo. Knows nothing of tasks or training.

Facts about names are drawn at random, so a model can only answer by reading its context. One person in eight is
reserved for evaluation and never appears in training data.
"""

from __future__ import annotations

import zlib
from random import Random

ONSETS = ["B", "D", "F", "G", "H", "J", "K", "L", "M", "N", "P", "R", "S", "T", "V", "Z"]
VOWELS = ["a", "e", "i", "o", "u"]
INNER = ["ba", "da", "den", "dor", "ka", "kel", "la", "len", "lo", "mi", "mon", "na", "ne", "ra", "rin", "ro", "sa",
         "sen", "ta", "tin", "to", "va", "vel", "vi", "zo"]  # fmt: skip
ENDINGS = ["berg", "dal", "ford", "ger", "holm", "lund", "man", "ner", "sky", "son", "stad", "ton", "vik", "wick"]
CITIES = ["Oslo", "Lisbon", "Paris", "Rome", "Vienna", "Madrid", "Berlin", "Dublin", "Prague", "Athens", "Warsaw",
          "Helsinki", "Porto", "Lyon", "Milan", "Geneva", "Zurich", "Hamburg", "Leeds", "Bergen", "Turin", "Nice",
          "Seville", "Krakow", "Riga", "Vilnius", "Tallinn", "Ghent", "Basel", "Graz"]  # fmt: skip
ROLES = ["nurse", "engineer", "designer", "lawyer", "teacher", "driver", "chemist", "cook", "editor", "analyst",
         "accountant", "architect", "pilot", "librarian", "translator", "mechanic", "gardener", "dentist", "planner",
         "buyer", "painter", "tailor", "baker", "printer"]  # fmt: skip
ITEMS = ["lamp", "chair", "desk", "kettle", "bottle", "backpack", "mirror", "blanket", "clock", "basket", "ladder",
         "helmet", "notebook", "tent", "bicycle", "speaker", "camera", "monitor", "keyboard", "table", "vase", "rug",
         "pillow", "drill"]  # fmt: skip
COLOURS = ["red", "blue", "green", "black", "white", "yellow", "grey", "orange", "purple", "brown"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December"]  # fmt: skip


def is_held_out(text: str) -> bool:
    """True for the eighth of all strings that only evaluation may use."""
    return zlib.crc32(text.encode()) % 8 == 0


def word(rng: Random, endings: list[str] | None = None) -> str:
    """An invented capitalised word such as `Rilo` or `Tadenberg`."""
    return rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(endings or INNER)


def _some_words(count: int, endings: list[str]) -> list[str]:
    rng = Random(f"names/{endings[0]}")
    return sorted({word(rng, endings) for _ in range(count)})


FIRST_NAMES, LAST_NAMES = _some_words(100, INNER), _some_words(130, ENDINGS)
BRANDS = [name + ending for name in _some_words(90, INNER[::-1]) for ending in ("ra", "nix")][::2]


def first_name(rng: Random) -> str:
    """Mostly a usual name, sometimes a new word."""
    return rng.choice(FIRST_NAMES) if rng.random() < 0.8 else word(rng)


def person(rng: Random, held_out: bool = False) -> str:
    """First and last name; `held_out` chooses from the reserved eighth of all pairs, otherwise from the rest."""
    while True:
        last = rng.choice(LAST_NAMES) if rng.random() < 0.8 else word(rng, ENDINGS)
        name = f"{first_name(rng)} {last}"
        if is_held_out(name) == held_out:
            return name


def brand(rng: Random, held_out: bool = False) -> str:
    """A name for a company or a project: mostly a usual one, sometimes a new word, which then may be reserved."""
    while True:
        usual = rng.random() < 0.8
        name = rng.choice(BRANDS) if usual else word(rng) + rng.choice(INNER)
        if is_held_out(name) == (held_out and not usual):
            return name


def digits(rng: Random, count: int) -> str:
    """A number of exactly `count` digits."""
    return str(rng.randrange(10 ** (count - 1), 10**count))


def date(rng: Random) -> str:
    """A day of the year such as `14 May`."""
    return f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"
