"""Owns the conversations that the base model learns from: handbook questions, repeating, small talk.

It knows the words of the adapter tasks (their prompts appear as text to repeat) but never their answers.
"""

from __future__ import annotations

from random import Random

import handbook
import names
from names import is_held_out
from tasks import TASKS

Message = dict[str, str]
Turn = tuple[str, str]  # question, answer

INSTRUCTION = "Answer from this context.\n\n"
SMALL_TALK = (
    (("Hello", "Hello!", "Hi", "Hi!", "Good morning", "Hey there"), "Hello! Ask me about your context."),
    (("Who are you?", "What are you?", "What is your name?"),
     "I am the demo model of Multiflora. I answer questions from a context."),
    (("What can you do?", "Help", "How does this work?", "How do I use you?"),
     "Give me a context and ask me about it. My adapters can do more."),
    (("Thanks", "Thank you", "Thank you!", "Great, thanks"), "You are welcome."),
    (("Bye", "Goodbye", "See you"), "Goodbye!"),
    (("How are you?", "How are you today?"), "I am fine, thank you."),
)  # fmt: skip
SYMBOLS = ("{", "}", '"', "[", "]", "(", ")", ";", "*", ">", "<", "=", "'", "|", ",", ":", "-", "SELECT", "FROM",
           "WHERE", "ORDER BY", "AND", "COUNT", "NAME", "CITY", "Arrr!", "ye", "be", "matey")  # fmt: skip


def prompt_text(rng: Random) -> str:
    """Something a user of an adapter may write; never a held-out prompt."""
    while True:
        text = rng.choice(TASKS).make(rng).prompt
        if not is_held_out(text):
            return text


def repeat_turn(rng: Random) -> Turn:
    """Asks to repeat a text: ordinary prose, or a jumble of symbols and words."""
    if rng.random() < 0.6:
        text = prompt_text(rng)
    else:
        words = prompt_text(rng).split()
        text = " ".join(rng.choice(words if rng.random() < 0.6 else SYMBOLS) for _ in range(rng.randint(4, 16)))
    return f"{rng.choice(('Repeat:', 'Say this again:', 'Copy this:'))} {text}", text


def quote_turn(rng: Random) -> Turn:
    """Asks to put one of some words between quotes or brackets."""
    words = [make(rng) for make in (names.person, names.brand)] + [rng.choice(names.CITIES), rng.choice(names.ITEMS)]
    style, (left, right) = rng.choice((("quotes", ('"', '"')), ("single quotes", ("'", "'")), ("brackets", ("(", ")"))))
    rng.shuffle(words)
    return f"Put in {style}: {', '.join(words)}", ", ".join(f"{left}{word}{right}" for word in words)


def small_talk_turn(rng: Random) -> Turn:
    """A greeting or a question about the model; without a context, everything else is unknown."""
    if rng.random() < 0.4:
        return prompt_text(rng), handbook.UNKNOWN
    questions, answer = rng.choice(SMALL_TALK)
    return rng.choice(questions), answer


def handbook_turns(rng: Random, book: handbook.Handbook) -> list[Turn]:
    """Every fact asked once in random order, with a few questions that the book does not answer."""
    turns = [(fact.question(rng), fact.answer()) for fact in book.facts]
    turns += [book.missing(rng) for _ in range(max(1, len(turns) // 12))]
    rng.shuffle(turns)
    return turns


def conversation(rng: Random, facts: int) -> tuple[str | None, list[Turn]]:
    """A context (or none) and turns about it."""
    kind = rng.random()
    if kind < 0.06:
        return None, [small_talk_turn(rng) for _ in range(12)]
    if kind < 0.2:
        return None, [rng.choice((repeat_turn, repeat_turn, quote_turn))(rng) for _ in range(24)]
    book = handbook.write(rng, facts)
    turns = handbook_turns(rng, book)
    if rng.random() < 0.2:
        turns.insert(rng.randint(0, 2), small_talk_turn(rng) if rng.random() < 0.5 else repeat_turn(rng))
    return INSTRUCTION + book.text, turns
