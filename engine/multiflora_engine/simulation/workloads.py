"""Traces made up from a seed: prompts that come once beside contexts that come often, loops, agents, all at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random

from multiflora_engine.protocol.traced_request import TracedRequest


class _Blocks:
    """New blocks, each other than all before it."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self._numbers = count(seed << 40)

    def make(self, fewest: int, most: int) -> list[str]:
        return [f"{next(self._numbers):016x}" for _ in range(self.random.randint(fewest, most))]


def one_off_prompts(part: float, requests: int = 4000, contexts: int = 30, seed: int = 1) -> list[TracedRequest]:
    """Of the prompts, a part comes once; the others ask something new behind one of the contexts, of which the k-th is
    asked for in proportion to k ** -0.9."""
    made = _Blocks(seed)
    shared = [made.make(8, 24) for _ in range(contexts)]
    weights = [rank**-0.9 for rank in range(1, contexts + 1)]
    trace = []
    for _ in range(requests):
        if made.random.random() < part:
            blocks = made.make(8, 24)
        else:
            (context,) = made.random.choices(shared, weights)
            blocks = context + made.make(1, 3)
        trace.append(TracedRequest(blocks, len(blocks)))
    return trace


def loop(prompts: int = 60, rounds: int = 40, seed: int = 1) -> list[TracedRequest]:
    """The same prompts one after the other, again and again."""
    made = _Blocks(seed)
    once = [made.make(6, 14) for _ in range(prompts)]
    return [TracedRequest(blocks, len(blocks)) for _ in range(rounds) for blocks in once]


@dataclass(slots=True)
class _Conversation:
    blocks: list[str]
    turns: int


def conversations(
    requests: int = 3000, active: int = 25, turns: int = 12, eager: float = 0.3, seed: int = 1
) -> list[TracedRequest]:
    """Agents behind three system prompts: each turn sends all before it and more, and the answer is part of the next.

    active: conversations at the same time, each of 1 to 2 * turns turns; one that had a turn lately is likelier to have
    the next, the more so the smaller `eager` is.
    """
    made = _Blocks(seed)
    systems = [made.make(4, 8) for _ in range(3)]

    def begin() -> Iterator[_Conversation]:
        while True:
            yield _Conversation(list(made.random.choice(systems)), made.random.randint(1, 2 * turns))

    fresh = begin()
    running = [next(fresh) for _ in range(active)]
    trace = []
    for _ in range(requests):
        place = min(int(made.random.expovariate(1 / (eager * active))), active - 1)
        conversation = running.pop(place)
        conversation.blocks += made.make(1, 5)
        asked = len(conversation.blocks)
        conversation.blocks += made.make(1, 3)
        trace.append(TracedRequest(list(conversation.blocks), asked))
        conversation.turns -= 1
        if conversation.turns:
            running.insert(0, conversation)
        else:
            running.append(next(fresh))
    return trace


def together(first: list[TracedRequest], second: list[TracedRequest], seed: int = 1) -> list[TracedRequest]:
    """The requests of both, each trace in its order. They must be of different seeds: those number the blocks."""
    random = Random(seed)
    turns = [first] * len(first) + [second] * len(second)
    random.shuffle(turns)
    left = {id(trace): iter(trace) for trace in (first, second)}
    return [next(left[id(trace)]) for trace in turns]
