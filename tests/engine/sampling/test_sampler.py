"""Each sampling parameter against a plain reference, rows that do not meet, seeds that hold whatever else happens."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from multiflora_engine.core.sequence import Sequence, make_sequences
from multiflora_engine.core.step import SampledToken
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.sampling.sampler import Sampler
from multiflora_engine.sampling.token_counts import SeenTokens

V, EOS = 50, 49


def _sampler(seed: int = 0) -> Sampler:
    return Sampler(V, [EOS], seed)


def _sample(sampler: Sampler, logits: Tensor, sequences: list[Sequence]) -> list[SampledToken]:
    return sampler.launch(logits, sequences, [len(s.output_token_ids) for s in sequences]).collect()


def _sequences(name: str = "r", prompt: tuple[int, ...] = (1, 2, 2), bad: Any = (), **params: Any) -> list[Sequence]:
    request = GenerateRequest(
        id=name, prompt_token_ids=list(prompt), params=SamplingParams(**params), bad_word_ids=[list(w) for w in bad]
    )
    return make_sequences(request, 0)


def _one(*outputs: int, **params: Any) -> Sequence:
    sequence = _sequences(**params)[0]
    for token in outputs:
        sequence.append_token(token)
    return sequence


def _logits(rows: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(rows, V, generator=torch.Generator().manual_seed(seed)) * 2


def _token(logits: Tensor, sequence: Sequence) -> int:
    (sampled,) = _sample(_sampler(), logits, [sequence])
    assert sampled.failure is None
    return sampled.token_id


def _counts(logits: Tensor, draws: int = 4000, **params: Any) -> Counter[int]:
    """Draws at temperature 1, one seed each."""
    sequences = [_one(seed=seed, **params) for seed in range(draws)]
    return Counter(sampled.token_id for sampled in _sample(_sampler(), logits.expand(draws, V).contiguous(), sequences))


def _assert_distribution(counts: Counter[int], probabilities: Tensor) -> None:
    draws = counts.total()
    assert set(counts) <= set(probabilities.nonzero()[:, 0].tolist())
    kept = [(counts[i], p * draws) for i, p in enumerate(probabilities.tolist()) if p * draws >= 5]
    statistic = sum((seen - expected) ** 2 / expected for seen, expected in kept)
    assert statistic < len(kept) + 4 * math.sqrt(2 * len(kept))


def test_greedy_is_argmax_with_ties_to_the_lowest_id_and_leaves_the_logits_alone() -> None:
    logits = _logits(3)
    logits[1, [8, 30]] = 50.0
    before = logits.clone()
    tokens = _sample(_sampler(), logits, [_one(temperature=0.0), _one(temperature=0.0), _one(top_k=1)])
    assert [token.token_id for token in tokens] == [int(logits[0].argmax()), 8, int(logits[2].argmax())]
    assert [token.logprobs for token in tokens] == [None] * 3
    assert torch.equal(logits, before)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_temperature_sharpens_or_flattens(temperature: float) -> None:
    logits = _logits()
    _assert_distribution(_counts(logits, temperature=temperature), (logits[0] / temperature).softmax(-1))


@pytest.mark.parametrize("temperature", [1e30, 3e38, 1e39, 1e308])
def test_no_heat_brings_excluded_tokens_back(temperature: float) -> None:
    allowed = (30, 40, 41)
    probabilities = torch.zeros(V)
    probabilities[list(allowed)] = 1 / 3
    _assert_distribution(_counts(_logits(), 600, temperature=temperature, allowed_token_ids=allowed), probabilities)


def test_truncations_leave_out_what_they_should() -> None:
    logits = _logits()
    probabilities = logits[0].softmax(-1)
    order = probabilities.argsort(descending=True)
    cases: list[tuple[dict[str, Any], Tensor]] = [
        ({"top_k": 4}, order[:4]),
        ({"min_p": 0.2}, order[probabilities[order] >= 0.2 * probabilities.max()]),
        ({"top_p": 0.6}, order[: int((probabilities[order].cumsum(-1) < 0.6).sum()) + 1]),
    ]
    for params, kept in cases:
        expected = torch.zeros(V)
        expected[kept] = probabilities[kept] / probabilities[kept].sum()
        _assert_distribution(_counts(logits, 2000, **params), expected)


def test_an_unrestricted_row_beside_a_restricted_one_stays_unrestricted() -> None:
    logits = torch.zeros(2, V)
    sampler, seen = _sampler(), set()
    for seed in range(300):
        wide, narrow = _sample(sampler, logits, [_one(seed=seed), _one(seed=seed, top_k=3, min_p=0.5)])
        seen.add(wide.token_id)
        assert narrow.failure is None
    assert len(seen) > 45


@pytest.mark.parametrize("name", ["repetition_penalty", "frequency_penalty", "presence_penalty"])
def test_penalties(name: str) -> None:
    """Prompt 1, 2, 2; output 5, 5, 6. Repetition counts the prompt, the other two do not."""
    logits = torch.full((1, V), -10.0)
    logits[0, [2, 5, 6, 7]] = torch.tensor([4.0, 4.0, 3.9, 2.1])
    values = {"repetition_penalty": 2.0, "frequency_penalty": 1.0, "presence_penalty": 1.0}
    expected = {"repetition_penalty": 7, "frequency_penalty": 2, "presence_penalty": 2}
    sequence = _one(5, 5, 6, temperature=0.0, **{name: values[name]})
    assert _token(logits, sequence) == expected[name]
    # without token 2: frequency leaves 5 at 2.0, 6 at 2.9; presence 5 at 3.0, 6 at 2.9
    logits[0, 2] = -10.0
    assert _token(logits, sequence) == {"repetition_penalty": 7, "frequency_penalty": 6, "presence_penalty": 5}[name]


def test_penalties_keep_up_step_by_step_and_through_recomputation() -> None:
    sequence, sampler = _one(temperature=0.0, frequency_penalty=2.0), _sampler()
    logits = torch.zeros(1, V)
    logits[0, 3:8] = 1.5
    chosen = []
    for _ in range(10):
        (sampled,) = _sample(sampler, logits, [sequence])
        chosen.append(sampled.token_id)
        sequence.append_token(sampled.token_id)
        assert _token(logits, sequence) == _sample(sampler, logits, [sequence])[0].token_id  # fresh memory, same choice
    assert chosen == [3, 4, 5, 6, 7, 0, 1, 2, 8, 9]


def test_seen_tokens_grow_past_any_room() -> None:
    seen = SeenTokens([5, 5, 1])
    output = [5, *range(100, 300), 1]
    for end in (0, 3, 150, len(output)):
        seen.extend_to(output[:end])
    assert seen.ids.tolist() == [5, 1, *range(100, 300)]
    assert dict(zip(seen.ids.tolist(), seen.counts.tolist(), strict=True)) == dict.fromkeys(output, 1.0)


def test_min_tokens_holds_back_every_stop_token_until_then() -> None:
    logits = torch.zeros(1, V)
    logits[0, [EOS, 20, 30]] = torch.tensor([9.0, 8.0, 1.0])
    params: dict[str, Any] = {"temperature": 0.0, "min_tokens": 2, "stop_token_ids": (20,)}
    assert _token(logits, _one(7, **params)) == 30
    assert _token(logits, _one(7, 7, **params)) == EOS
    assert _token(logits, _one(7, **params, ignore_eos=True)) == EOS


def test_bias_bans_and_allowed_ids() -> None:
    logits = torch.zeros(1, V)
    logits[0, [10, 11, 12]] = torch.tensor([3.0, 2.0, 1.0])
    greedy: dict[str, Any] = {"temperature": 0.0}
    assert _token(logits, _one(**greedy, logit_bias={12: 5.0, 10: -5.0})) == 12
    assert _token(logits, _one(**greedy, allowed_token_ids=(11, 12))) == 11
    assert _token(logits, _one(**greedy, bad=[[10]])) == 11
    phrase: dict[str, Any] = {**greedy, "bad": [[4, 5, 10]]}
    assert _token(logits, _one(4, **phrase)) == 10
    assert _token(logits, _one(5, 4, 5, **phrase)) == 11
    assert _token(logits, _one(5, **phrase, prompt=(1, 4))) == 10  # a bad word counts within the output only


def test_a_row_without_a_choice_fails_alone() -> None:
    logits = _logits(6)
    logits[0, 3], logits[1, 3], logits[2] = torch.nan, torch.inf, -torch.inf
    usual = _one(seed=5)
    sequences = [
        _one(temperature=0.0, logprobs=2),
        _one(),
        _one(),
        usual,
        _one(allowed_token_ids=(4,), bad=[[4]]),
        _one(),
    ]
    sampled = _sample(_sampler(), logits, sequences)
    assert [s.failure.code if s.failure else None for s in sampled] == [
        *["internal_error"] * 3,
        None,
        "internal_error",
        None,
    ]
    assert sampled[3].token_id == _token(logits[3:4], usual)


def test_the_same_seed_gives_the_same_text_whatever_else_is_in_the_batch() -> None:
    params: dict[str, Any] = {"seed": 11, "temperature": 0.9, "top_p": 0.9, "presence_penalty": 0.3}
    steps = [_logits(seed=step) for step in range(12)]

    def run(crowd: int, name: str) -> list[int]:
        sampler, subject = _sampler(), _one(**params)
        for step, logits in enumerate(steps):
            others = [_one(name=f"{name}{i}", temperature=i % 3, top_k=i, logprobs=i % 2 or None) for i in range(crowd)]
            batch = torch.cat([_logits(crowd, 100 + step), logits]) if crowd else logits
            subject.append_token(_sample(sampler, batch, [*others, subject])[-1].token_id)
            if step == 6:
                sampler = _sampler()  # a preempted sequence is not even the same object's memory
        return subject.output_token_ids

    alone = run(0, "a")
    assert run(7, "b") == alone
    assert len(set(alone)) > 3


def test_seeds_sequences_and_unseeded_requests_differ() -> None:
    logits = torch.zeros(1, V)

    def text(sequence: Sequence, sampler: Sampler) -> tuple[int, ...]:
        for _ in range(8):
            sequence.append_token(_sample(sampler, logits, [sequence])[0].token_id)
        return tuple(sequence.output_token_ids)

    twins = _sequences(n=3, seed=1)
    texts = [text(twin, _sampler()) for twin in twins]
    texts += [text(_one(seed=2), _sampler()), text(_one(seed=-1), _sampler())]
    texts += [text(_one(name="x"), _sampler()), text(_one(name="y"), _sampler()), text(_one(name="x"), _sampler(9))]
    assert len(set(texts)) == len(texts)
    assert text(_one(name="x"), _sampler()) == texts[5]  # the engine's seed makes unseeded requests repeatable


def test_logprobs_are_raw_and_follow_each_rows_wish() -> None:
    logits = _logits(3)
    sequences = [_one(logprobs=2, logit_bias={7: 100.0}), _one(seed=1), _one(temperature=0.0, logprobs=0)]
    biased, plain, greedy = _sample(_sampler(), logits, sequences)
    reference = logits.double().log_softmax(-1)
    order = reference[0].argsort(descending=True).tolist()
    assert biased.token_id == 7
    assert biased.logprobs is not None
    assert (biased.logprobs.chosen.token_id, biased.logprobs.chosen.rank) == (7, order.index(7) + 1)
    assert biased.logprobs.chosen.logprob == pytest.approx(float(reference[0, 7]), abs=1e-5)
    assert [(top.token_id, top.rank) for top in biased.logprobs.top] == [(order[0], 1), (order[1], 2)]
    assert plain.logprobs is None
    assert greedy.logprobs is not None
    assert (greedy.logprobs.chosen.rank, greedy.logprobs.top) == (1, [])


def test_prompt_logprobs_and_sampled_logprobs_are_the_same_numbers() -> None:
    logits = _logits(1)
    (sampled,) = _sample(_sampler(), logits, [_one(temperature=0.0, logprobs=5)])
    assert _sampler().prompt_logprobs(logits, [sampled.token_id], 5).collect() == [sampled.logprobs]


def test_a_length_that_the_host_only_knows_ahead_draws_the_same_token() -> None:
    """One step ahead, the last output token is on the device alone; its position is what the draw depends on."""
    logits, sampler = _logits(), _sampler()
    known, ahead = _one(7, 8, seed=3, min_tokens=3), _one(7, seed=3, min_tokens=3)
    (expected,) = _sample(sampler, logits, [known])
    assert sampler.launch(logits, [ahead], [2]).collect() == [expected]
    assert sampler.launch(logits, [ahead], [1]).collect() != [expected]


def test_what_waits_for_tokens_that_the_host_does_not_know() -> None:
    sampler = _sampler()
    assert not sampler.waits(_one(seed=3, top_k=3, min_tokens=2, logprobs=2, bad=[[4]]), 1)
    assert sampler.waits(_one(repetition_penalty=1.1), 1)
    assert sampler.waits(_one(bad=[[4, 5]]), 1)
    assert not sampler.waits(_one(7, bad=[[4, 5]]), 1), "the host knows it"


def test_mixed_rows_have_the_tokens_that_they_have_alone() -> None:
    """Greedy, drawn, edited and drawn after edits, with and without log-probabilities, in one step."""
    wishes: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"seed": 3, "top_p": 0.8},
        {"temperature": 0.0, "logit_bias": {9: 30.0}, "logprobs": 1},
        {"seed": 4, "allowed_token_ids": (5, 6, 7), "min_tokens": 9, "stop_token_ids": (6,)},
        {"seed": 5, "presence_penalty": 1.5, "bad": [[1], [2, 3]], "logprobs": 0},
    ]
    logits = _logits(5)
    together = _sample(_sampler(), logits, [_one(2, **wish) for wish in wishes])
    for row, wish in enumerate(wishes):
        (alone,) = _sample(_sampler(), logits[row : row + 1], [_one(2, **wish)])
        assert alone.token_id == together[row].token_id
        assert (alone.logprobs is None) == (together[row].logprobs is None) == ("logprobs" not in wish)
    assert together[2].token_id == 9
    assert together[3].token_id in (5, 7)


@pytest.mark.gpu
def test_a_launch_never_waits_for_the_device() -> None:
    logits, sampler = _logits(5).cuda(), _sampler()
    sequences = [
        _one(temperature=0.0),
        _one(2, seed=1, top_p=0.9, top_k=9, logprobs=3),
        _one(2, temperature=0.0, logit_bias={1: 2.0}, logprobs=0),
        _one(2, allowed_token_ids=(1, 2, 3), bad=[[1]], min_tokens=3),
        _one(2, frequency_penalty=0.5),
    ]
    _sample(sampler, logits, sequences)  # kernels compile, pinned memory is taken
    torch.cuda.set_sync_debug_mode("error")
    try:
        step = sampler.launch(logits, sequences, [1] * 5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    on_host = _sample(_sampler(), logits.cpu(), sequences)
    assert [token.token_id for token in step.collect()] == [token.token_id for token in on_host]
