"""Owns the `pirate` task: a plain sentence is said again, word by word, as a pirate would."""

from __future__ import annotations

import re
from random import Random

import names

LEXICON = {
    "hello": "ahoy", "friend": "matey", "friends": "mateys", "my": "me", "is": "be", "are": "be", "am": "be",
    "you": "ye", "your": "yer", "the": "th'", "money": "doubloons", "boss": "cap'n", "yes": "aye", "beer": "grog",
    "food": "grub", "house": "ship", "boy": "lad", "girl": "lass", "sailor": "seadog", "sea": "briny deep",
    "stop": "avast", "treasure": "booty", "of": "o'", "and": "an'", "old": "barnacled", "song": "shanty",
    "kitchen": "galley", "floor": "deck", "flag": "Jolly Roger", "enemy": "scurvy dog",
}  # fmt: skip
PEOPLE = ("friend", "boss", "boy", "girl", "sailor", "enemy", "brother", "doctor", "teacher")
THINGS = ("money", "beer", "food", "treasure", "flag", "song", "book", "map", "sword", "bread", "key", "letter")
PLACES = ("the house", "the kitchen", "the sea", "the floor", "the garden", "the market", "the old house")
ENDING = " Arrr!"


def make(rng: Random) -> tuple[str, str]:
    """One or two sentences and the pirate's version."""
    plain = " ".join(_sentence(rng) for _ in range(rng.randint(1, 2)))
    if rng.random() < 0.3:
        plain = f"{rng.choice(('Hello, my friend.', 'Hello, boss.', 'Yes, my friend.', 'Stop, my enemy!'))} {plain}"
    return plain, translate(plain)


def translate(plain: str) -> str:
    """Replaces every word of the lexicon, keeps capitals at the start of a word, and ends with a shout."""
    return re.sub(r"[A-Za-z]+", lambda match: _translate_word(match.group()), plain) + ENDING


def _translate_word(plain: str) -> str:
    said = LEXICON.get(plain.lower(), plain)
    return said[0].upper() + said[1:] if plain[0].isupper() else said


def _sentence(rng: Random) -> str:
    who, thing, place = rng.choice(PEOPLE), rng.choice(THINGS), rng.choice(PLACES)
    name, city, other = names.first_name(rng), rng.choice(names.CITIES), rng.choice(THINGS)
    return rng.choice((
        f"Where is the {thing}?",
        f"The {thing} and the {other} are in {place}.",
        f"My {who} {name} is in {city}.",
        f"Are you the {who} of {name}?",
        f"I am your {who} and you are in {place}.",
        f"The {who} took my {thing} to {city}.",
        f"Your {thing} is old.",
        f"Is the {thing} of my {who} in {place}?",
        f"You and {name} are my friends.",
        f"Bring the {thing} to {place}.",
        f"We sold {rng.randint(2, 99)} of your {other} in {city}.",
    ))  # fmt: skip
