"""When tokens are drafted: for texts that repeat themselves, as long as it pays."""

from __future__ import annotations

from typing import Any

import pytest

from multiflora_engine.core.sequence import Sequence, make_sequences
from multiflora_engine.protocol.config import EngineConfig
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.speculation.prompt_lookup import PromptLookup, PromptLookupConfig


def sequence_of(prompt: list[int]) -> Sequence:
    request = GenerateRequest(id="r", prompt_token_ids=prompt, params=SamplingParams())
    return make_sequences(request, 0)[0]


def lookup(**config: Any) -> PromptLookup:
    """One that has seen a step without drafts, and knows no more of what rows cost than it did before."""
    source = PromptLookup(PromptLookupConfig(**{"is_default": True, **config}), lambda sequence: True)
    source.observe(1, 1, 1.0)
    return source


def test_it_drafts_what_followed_before_and_more_where_the_match_is_longer() -> None:
    document = list(range(100, 140))
    for copied, drafted in ((1, 0), (2, 1), (4, 1), (5, 2), (20, 3)):
        drafts = lookup().draft(sequence_of([*document, 7, *document[:copied]]), 100, 1)
        assert drafts == document[copied : copied + drafted]
    assert lookup().draft(sequence_of([*document, 7, *document[:20]]), 2, 1) == document[20:22]


def test_a_copy_is_drafted_in_ever_longer_pieces() -> None:
    source, document = lookup(), list(range(100, 200))
    sequence = sequence_of([*document, 7, *document[:2]])
    sizes, place = [], 2
    while place < 60:
        drafts = source.draft(sequence, 100, 1)
        assert drafts == document[place : place + len(drafts)]
        source.learn(sequence, len(drafts), len(drafts))
        sizes.append(len(drafts))
        for token_id in document[place : place + len(drafts) + 1]:
            sequence.append_token(token_id)
        place += len(drafts) + 1
    assert sizes[:5] == [1, 2, 4, 8, 8]


def drafted_without_success(source: PromptLookup, num_running: int, tokens: int) -> int:
    """Tokens drafted for an answer whose bigrams stood in the prompt before, each with another token behind it."""
    prompt = [token for number in range(tokens) for token in (1000 + number, 2000 + number, 5)]
    sequence, drafted = sequence_of(prompt), 0
    for number in range(tokens // 2):
        sequence.append_token(1000 + number)
        sequence.append_token(2000 + number)
        drafts = source.draft(sequence, 100, num_running)
        if drafts:
            drafted += len(drafts)
            source.learn(sequence, len(drafts), 0)
    return drafted


def test_a_text_that_seems_to_repeat_and_does_not_is_left_alone() -> None:
    """Ever longer pauses; a draft has to pay more where more sequences share the step."""
    assert drafted_without_success(lookup(), 1, 400) <= 28
    assert drafted_without_success(lookup(), 4, 400) <= 6


def test_a_long_match_ends_a_pause() -> None:
    source, document = lookup(prompt_lookup_max=3), list(range(100, 140))
    sequence = sequence_of([*document, 1, 2, 3, 1, 2])
    source.draft(sequence, 9, 4)
    source.learn(sequence, 4, 4)  # what it saved is worth trying again
    for _ in range(2):
        assert source.draft(sequence, 1, 4) == [3]
        source.learn(sequence, 1, 0)
    for token_id in document[:5]:
        sequence.append_token(token_id)
        assert source.draft(sequence, 9, 4) == []
    sequence.append_token(document[5])
    assert source.draft(sequence, 9, 1) == [document[6]], "one token, to see whether it is a copy"
    source.learn(sequence, 1, 1)
    sequence.append_token(document[6])
    sequence.append_token(document[7])
    assert source.draft(sequence, 9, 1) == document[8:14]


def test_full_batches_are_not_drafted_for() -> None:
    text = [1, 2, 3, 4, 5, 1, 2, 3]
    assert lookup(disable_by_batch_size=4).draft(sequence_of(text), 9, 4)
    assert not lookup(disable_by_batch_size=4).draft(sequence_of(text), 9, 5)
    assert lookup(disable_by_batch_size=5).draft(sequence_of(text), 9, 5)


@pytest.mark.parametrize(("enabled", "wish", "expected"), [
    (True, None, True), (True, False, False), (False, None, False), (False, True, True),
])  # fmt: skip
def test_the_request_has_the_last_word(enabled: bool, wish: bool | None, expected: bool) -> None:
    assert lookup(is_default=enabled).wants(wish) == expected


def test_what_the_sampler_must_take_one_by_one_is_never_drafted_for() -> None:
    source = PromptLookup(PromptLookupConfig(is_default=True), lambda sequence: False)
    assert not source.draft(sequence_of([1, 2, 3, 4, 5, 1, 2, 3]), 9, 1)


@pytest.mark.parametrize(("config", "named"), [
    ({"num_speculative_tokens": 0}, "num_speculative_tokens must be at least 1, got 0"),
    ({"speculative_disable_by_batch_size": -1}, "speculative_disable_by_batch_size"),
    ({"prompt_lookup_min": 5}, r"prompt_lookup_min must be at most prompt_lookup_max \(4\), got 5"),
])  # fmt: skip
def test_sizes_that_mean_nothing_are_refused(config: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        EngineConfig(model_path="m", artifact_root="a", **config)  # type: ignore[arg-type]


def predicted(prompt: list[int], prediction: list[int]) -> Sequence:
    request = GenerateRequest(id="r", prompt_token_ids=prompt, params=SamplingParams(), prediction_token_ids=prediction)
    return make_sequences(request, 0)[0]


def test_an_answer_that_begins_as_predicted_is_drafted_from_its_first_token_on() -> None:
    document = list(range(100, 140))
    sequence, source = predicted([1, 2, 3], document), lookup()
    place = 0
    while place < len(document):
        sequence.append_token(document[place])
        place += 1
        drafts = source.draft(sequence, 100, 1)
        assert drafts == document[place : place + len(drafts)]
        assert bool(drafts) == (place < len(document)), "nothing is drafted behind the prediction's end"
        if drafts:
            assert source.is_predicted(sequence)
            source.learn(sequence, len(drafts), len(drafts))
        for token_id in drafts:
            sequence.append_token(token_id)
            place += 1


def test_an_answer_that_leaves_the_prediction_comes_back_to_it() -> None:
    document = list(range(100, 140))
    sequence, source = predicted([1, 2, 3], document), lookup()
    for token_id in (*document[:3], 7, *document[20:23]):
        sequence.append_token(token_id)
    drafts = source.draft(sequence, 100, 1)
    assert drafts == document[23 : 23 + len(drafts)] != []


def test_what_the_prompt_has_as_well_counts_as_predicted_and_other_copies_do_not() -> None:
    document = list(range(100, 140))
    for prediction, is_predicted in ((document, True), (list(range(200, 240)), False)):
        sequence, source = predicted([*document, 1], prediction), lookup()
        for token_id in document[:4]:
            sequence.append_token(token_id)
        assert source.draft(sequence, 1, 1) == [document[4]]
        assert source.is_predicted(sequence) is is_predicted
