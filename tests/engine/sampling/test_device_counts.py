"""Penalties by counts that the device keeps: the same tokens as by the host's, run ahead, preempted, with few rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.engine.sampling.test_sampler import EOS, V, _logits, _one, _sequences

from multiflora_engine.core.sequence import Sequence
from multiflora_engine.sampling.device_counts import DeviceCounts
from multiflora_engine.sampling.sampler import Sampler
from multiflora_engine.sampling.sampling_batch import Row

PARAMS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0, "repetition_penalty": 1.7},
    {"temperature": 0.0, "frequency_penalty": 0.8, "presence_penalty": -0.3, "logit_bias": {3: 2.0}},
    {"seed": 5, "repetition_penalty": 0.6, "presence_penalty": 1.1, "top_p": 0.8},
    {"seed": 6, "min_tokens": 3, "frequency_penalty": 1.5, "bad": [[1], [4]]},
    {"seed": 7},
)
"""Every penalty, beside other edits and a row without any."""
STEPS = 9


class Counting:
    """A sampler whose device counts, and for each text its twin that the host counts."""

    def __init__(self, rows: int = len(PARAMS)) -> None:
        self.counts = DeviceCounts(rows, V)
        self.sampler = Sampler(V, [EOS], 0, None, self.counts)
        self.host = Sampler(V, [EOS], 0)

    def step(self, step: int, sequences: list[Sequence], lengths: list[int]) -> list[int]:
        """Sampled, where the texts have these lengths; the host may lack their last token."""
        return [
            token.token_id for token in self.sampler.launch(logits_of(step, sequences), sequences, lengths).collect()
        ]

    def expected(self, step: int, twins: list[Sequence]) -> list[int]:
        lengths = [len(twin.output_token_ids) for twin in twins]
        return [token.token_id for token in self.host.launch(logits_of(step, twins), twins, lengths).collect()]


def logits_of(step: int, sequences: list[Sequence]) -> torch.Tensor:
    """Large for few tokens, so that texts repeat themselves."""
    logits = _logits(len(sequences), seed=step)
    logits[:, :6] += 3.0
    return logits


def pair(**params: Any) -> tuple[Sequence, Sequence]:
    return _one(**params), _one(**params)


def append(sequences: list[Sequence], tokens: list[int]) -> None:
    for sequence, token in zip(sequences, tokens, strict=True):
        sequence.append_token(token)


def test_a_step_ahead_of_the_host_has_the_hosts_tokens() -> None:
    """Step n + 1 is launched before the tokens of step n are appended; only texts that the device lacks are told."""
    counting = Counting()
    sequences, twins = map(list, zip(*(pair(**params) for params in PARAMS), strict=True))
    under_way: list[int] = []
    for step in range(STEPS):
        assert not any(counting.sampler.waits(sequence, step) for sequence in sequences)
        tokens = counting.step(step, sequences, [step] * len(sequences))
        assert tokens == counting.expected(step, twins)
        append(sequences[: len(under_way)], under_way)
        append(twins, tokens)
        under_way = tokens


def test_texts_are_told_once() -> None:
    counts, sequences = DeviceCounts(4, V), [_one(2, 2, presence_penalty=0.5), _one(9)]
    rows = [row for sequence in sequences for row in rows_of(sequence)]
    told = counts.penalties(rows, sequences)
    assert told is not None
    assert (told.rows.tolist(), told.ids.tolist(), told.values.tolist()) == ([0], [1, 2], [1, 1 + 2 * 2])
    again = counts.penalties([row._replace(length=3) for row in rows], sequences)
    assert again is not None
    assert (len(again.reset), len(again.ids), again.seen_rows.tolist()) == (0, 0, told.seen_rows.tolist())
    assert counts.penalties(rows_of(sequences[1]), sequences[1:]) is None


def rows_of(sequence: Sequence) -> list[Any]:
    sampling = Sampler(V, counts=DeviceCounts(1, V))._of(sequence)
    return [Row(sampling, sequence.output_token_ids, len(sequence.output_token_ids))]


def test_what_a_dropped_step_counted_is_forgotten() -> None:
    """A sequence is preempted while a step is under way, whose token never becomes part of its text."""
    counting = Counting()
    sequence, twin = pair(temperature=0.0, frequency_penalty=2.0)
    for step in range(3):
        append([sequence], counting.step(step, [sequence], [step]))
        append([twin], counting.expected(step, [twin]))
    counting.step(3, [sequence], [3])
    sequence.epoch += 1
    assert counting.sampler.waits(sequence, 4), "no step may be ahead of what is dropped"
    for step in range(4, 7):
        tokens = counting.step(step, [sequence], [len(sequence.output_token_ids)])
        assert tokens == counting.expected(step, [twin])
        append([sequence], tokens)
        append([twin], tokens)


def test_a_step_that_failed_is_launched_again() -> None:
    """The engine gives the device parts of a batch that could not be launched whole."""
    counting = Counting()
    sequence, twin = pair(seed=3, repetition_penalty=1.5)
    counting.step(0, [sequence], [0])
    tokens = counting.step(1, [sequence], [0])
    assert tokens == counting.expected(1, [twin])


@pytest.mark.parametrize("rows", [2, 3])
def test_more_texts_than_rows_take_turns(rows: int) -> None:
    counting = Counting(rows)
    pairs = [pair(seed=seed, frequency_penalty=1.0, repetition_penalty=1.2) for seed in range(5)]
    for step in range(12):
        now = [pairs[(step + i) % 5] for i in range(2)]
        sequences, twins = map(list, zip(*now, strict=True))
        tokens = counting.step(step, sequences, [len(one.output_token_ids) for one in sequences])
        assert tokens == counting.expected(step, twins)
        append(sequences, tokens)
        append(twins, tokens)


def test_candidates_of_one_request_count_for_themselves() -> None:
    counting = Counting()
    params: dict[str, Any] = {"n": 3, "seed": 1, "presence_penalty": 1.5}
    sequences, twins = _sequences(**params), _sequences(**params)
    for step in range(5):
        tokens = counting.step(step, sequences, [step] * 3)
        assert tokens == counting.expected(step, twins)
        append(sequences, tokens)
        append(twins, tokens)


def test_rows_of_texts_that_ended_are_given_away() -> None:
    counting = Counting(1)
    for seed in range(3):
        sequence, twin = pair(seed=seed, presence_penalty=1.0)
        for step in range(2):
            tokens = counting.step(step, [sequence], [step])
            assert tokens == counting.expected(step, [twin])
            append([sequence], tokens)
            append([twin], tokens)
        del sequence
