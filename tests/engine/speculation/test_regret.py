"""The bound on what speculation loses, against texts and judges of drafts that do their worst, by a known clock."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from multiflora_engine.core.sequence import Sequence, make_sequences
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.speculation.prompt_lookup import PromptLookup, PromptLookupConfig

ANSWER = 96

Clock = Callable[[int], float]
"""Seconds of a step, by its rows."""

CLOCKS: dict[str, Clock] = {
    "rows cost little": lambda rows: 1 + 0.03 * rows,
    "as a model of 30 million parameters": lambda rows: 0.88 + 0.12 * rows,
    "rows cost most of it": lambda rows: 0.1 + rows,
    "twice as much from nine rows on": lambda rows: 1 + 0.05 * rows + (1 + 0.1 * rows) * (rows > 8),
}

Judge = Callable[[int], int]
"""How many tokens of a draft of so many are right."""


def grudging(random_: random.Random) -> Judge:
    """Lets short drafts pass, so that longer ones come, and refuses those."""
    return lambda drafted: drafted if drafted < 4 else 0


JUDGES: dict[str, Callable[[random.Random], Judge]] = {
    "never right": lambda random_: lambda drafted: 0,
    "half right": lambda random_: lambda drafted: drafted // 2,
    "the first is right": lambda random_: lambda drafted: 1,
    "grudging": grudging,
    "right by chance": lambda random_: lambda drafted: random_.randrange(drafted + 1),
    "right in spells": lambda random_: lambda drafted: drafted if random_.random() < 0.3 else 0,
}


Answer = Callable[[Sequence, list[int]], tuple[int, int]]
"""For a sequence and its draft: how many tokens of it are right, and the token behind those."""


def seconds_with_drafts(source: PromptLookup, running: list[Sequence], answer: Answer, clock: Clock) -> float:
    """Until each of them has ANSWER tokens."""
    seconds = 0.0
    while running:
        drafts = [source.draft(s, ANSWER - len(s.output_token_ids) - 1, len(running)) for s in running]
        rows = len(running) + sum(map(len, drafts))
        seconds += clock(rows)
        source.observe(len(running), rows, clock(rows))
        for sequence, drafted in zip(running, drafts, strict=True):
            right, token = answer(sequence, drafted)
            if drafted:
                source.learn(sequence, len(drafted), right)
            for token_id in [*drafted[:right], token]:
                sequence.append_token(token_id)
        running = [sequence for sequence in running if len(sequence.output_token_ids) < ANSWER]
    return seconds


def against(source: PromptLookup, streams: int, judge: Judge, clock: Clock, seed: int) -> float:
    """How many times as fast as without drafts, for answers whose bigrams have all stood in the prompt before."""
    random_ = random.Random(seed)
    running = [sequence_of([random_.randrange(8) for _ in range(400)], seed + stream) for stream in range(streams)]

    def answer(sequence: Sequence, drafted: list[int]) -> tuple[int, int]:
        return judge(len(drafted)) if drafted else 0, random_.randrange(8)

    return ANSWER * clock(streams) / seconds_with_drafts(source, running, answer, clock)


def copying(source: PromptLookup, streams: int, clock: Clock, passage: int) -> float:
    """How many times as fast as without drafts, for answers that quote passages of their prompt in another order."""
    running = []
    for stream in range(streams):
        places = list(range(0, 768, passage))
        random.Random(stream).shuffle(places)
        running.append(sequence_of([*(token for at in places for token in range(at, at + passage)), 0], stream))

    def answer(sequence: Sequence, drafted: list[int]) -> tuple[int, int]:
        first = sequence.token_ids[-1] + 1
        right = next((n for n, token in enumerate(drafted) if token != first + n), len(drafted))
        return right, first + right

    return ANSWER * clock(streams) / seconds_with_drafts(source, running, answer, clock)


def sequence_of(prompt: list[int], number: int = 0) -> Sequence:
    request = GenerateRequest(id=str(number), prompt_token_ids=prompt, params=SamplingParams())
    return make_sequences(request, 0, b"")[0]


def lookup() -> PromptLookup:
    return PromptLookup(PromptLookupConfig(is_default=True), lambda sequence: True)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("judge", JUDGES)
def test_no_text_and_no_luck_lose_more_than_three_hundredths(clock: str, judge: str) -> None:
    for streams in (1, 4, 8):
        source, random_ = lookup(), random.Random(streams)
        for turn in range(3):
            assert against(source, streams, JUDGES[judge](random_), CLOCKS[clock], 100 * turn) >= 0.97, (streams, turn)


@pytest.mark.parametrize("streams", [1, 4])
def test_copies_are_made_nearly_twice_as_fast_or_more(streams: int) -> None:
    source = lookup()
    for passage in (24, 48):
        assert copying(source, streams, CLOCKS["as a model of 30 million parameters"], passage) >= 1.8, passage
