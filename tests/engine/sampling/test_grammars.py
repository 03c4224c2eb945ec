"""Grammars from end to end of the engine: what is allowed comes out, whatever else is in the batch."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from llguidance import LLMatcher
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig

from multiflora_engine.build import BuiltEngine
from multiflora_engine.core.grammar_source import GrammarError
from multiflora_engine.core.sequence import Sequence, make_sequences
from multiflora_engine.execution.executor import BegunStep
from multiflora_engine.execution.step_arrays import StepArrays
from multiflora_engine.protocol.requests import EngineFailure, GenerateRequest, TokenDelta
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.sampling import grammar_masks
from multiflora_engine.sampling.grammar_masks import GrammarMasks
from multiflora_engine.sampling.grammars import GrammarVocabulary
from multiflora_engine.sampling.sampler import Sampler
from multiflora_kernels.sampling.ops import apply_bitmask_

VOCAB, EOS = 300, 256
OPTIONS = {"kv_cache_memory": 2 << 20, "max_num_seqs": 8}
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 6}, "count": {"type": "integer", "maximum": 999}},
    "required": ["name", "count"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},
}
JSON = LLMatcher.grammar_from_json_schema(SCHEMA)
DIGITS = LLMatcher.grammar_from_regex("[0-9]{3}")


def byte_tokenizer() -> Tokenizer:
    """One token for each byte, and an end token after them: 257 of the model's 300."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    return tokenizer


TOKENIZER = byte_tokenizer()


def ids(text: str) -> list[int]:
    return list(TOKENIZER.encode(text).ids)


@pytest.fixture
def built(tiny_config: Any, save_model: Any, start_engine: Any) -> BuiltEngine:
    _, folder = save_model(tiny_config(LlamaConfig, vocab_size=VOCAB, eos_token_id=EOS))
    TOKENIZER.save(str(folder / "tokenizer.json"))
    engine: BuiltEngine = start_engine(folder, **OPTIONS)
    return engine


def request(name: str, grammar: str | None = JSON, **params: Any) -> GenerateRequest:
    values = {"max_tokens": 120, "temperature": 1.0, "seed": sum(map(ord, name)), **params}
    return GenerateRequest(
        id=name, prompt_token_ids=ids("Hello " + name), params=SamplingParams(**values), grammar=grammar
    )


Outputs = dict[tuple[str, int], list[TokenDelta]]


def run(built: BuiltEngine, *requests: GenerateRequest, each_step: Callable[[], None] = lambda: None) -> Outputs:
    outputs: Outputs = {}
    for each in requests:
        built.engine.add_request(each)
    while built.engine.has_work:
        each_step()
        for delta in built.engine.step():
            outputs.setdefault((delta.request_id, delta.index), []).append(delta)
    return outputs


def tokens(deltas: list[TokenDelta]) -> list[int]:
    assert deltas[-1].failure is None, deltas[-1].failure
    return [token for delta in deltas for token in delta.token_ids]


def text(deltas: list[TokenDelta]) -> str:
    return str(TOKENIZER.decode(tokens(deltas)))


def failure(deltas: list[TokenDelta]) -> EngineFailure:
    assert deltas[-1].failure is not None
    return deltas[-1].failure


def test_random_weights_at_temperature_one_write_what_the_schema_says_and_end(built: BuiltEngine) -> None:
    outputs = run(built, *(request(f"r{i}") for i in range(12)))
    for deltas in outputs.values():
        jsonschema.validate(json.loads(text(deltas)), SCHEMA)
        assert deltas[-1].finish_reason == "stop"
        assert tokens(deltas)[-1] == EOS
    assert len({text(deltas) for deltas in outputs.values()}) > 6


def test_candidates_of_one_request_follow_the_grammar_each_on_its_own(built: BuiltEngine) -> None:
    outputs = run(built, request("n", n=5, logprobs=2))
    assert len({text(deltas) for deltas in outputs.values()}) > 1
    for deltas in outputs.values():
        jsonschema.validate(json.loads(text(deltas)), SCHEMA)
        assert all(delta.logprobs is not None for delta in deltas)


def test_neighbours_without_a_grammar_say_what_they_say_alone(built: BuiltEngine) -> None:
    free = [request(f"free{i}", None, max_tokens=30, ignore_eos=True) for i in range(3)]
    alone = {key: tokens(deltas) for key, deltas in run(built, *free).items()}
    mixed = run(built, *free, request("a"), request("b", DIGITS))
    assert {key: tokens(deltas) for key, deltas in mixed.items() if key[0].startswith("free")} == alone
    assert text(mixed["b", 0]).isdigit()


def test_a_device_that_runs_ahead_computes_all_rows_ahead_and_chooses_these_once_it_knows_their_output(
    built: BuiltEngine, start_engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grammars, penalties and bad words beside a plain request; also where sequences are preempted with a step in
    flight."""
    prompt = ids("Hello")
    requests = [
        request("plain", None, max_tokens=40, ignore_eos=True),
        request("a"),
        request("b", n=2),
        request("penalised", None, max_tokens=40, ignore_eos=True, repetition_penalty=1.3, presence_penalty=0.5),
        GenerateRequest(
            id="bad",
            prompt_token_ids=prompt,
            params=SamplingParams(temperature=0.0, max_tokens=40, ignore_eos=True),
            bad_word_ids=[[first, second] for first in range(0, 300, 2) for second in range(40)],
        ),
    ]
    expected = {key: tokens(deltas) for key, deltas in run(built, *requests).items()}
    for module in ("build", "execution.device_side"):
        monkeypatch.setattr(f"multiflora_engine.{module}.runs_asynchronously", lambda device: True)
    ahead = start_engine(tmp_path / "model-llama", **OPTIONS)
    executor, known = ahead.engine._runner.executor, Counter[bool]()
    begin: Callable[[StepArrays], BegunStep] = executor.begin
    scheduler = ahead.engine._scheduler

    def counted(arrays: StepArrays) -> BegunStep:
        known[arrays.token_sources is None] += 1
        return begin(arrays)

    monkeypatch.setattr(executor, "begin", counted)
    assert {key: tokens(deltas) for key, deltas in run(ahead, *requests).items()} == expected
    assert known[False] > known[True], "decodes were launched before the host knew what they read"
    steps = 0

    def preempt() -> None:
        nonlocal steps
        steps += 1
        if steps % 7 == 0 and scheduler._live.running:
            scheduler._live.preempt(scheduler._live.running[steps % len(scheduler._live.running)])

    again = run(ahead, *requests, each_step=preempt)
    assert scheduler.stats().preemptions > 3
    assert {key: tokens(deltas) for key, deltas in again.items()} == expected


def test_preempted_sequences_go_on_with_the_same_text(built: BuiltEngine) -> None:
    requests = [request(f"r{i}", max_tokens=60) for i in range(4)]
    undisturbed = {key: tokens(deltas) for key, deltas in run(built, *requests).items()}
    scheduler = built.engine._scheduler
    steps = 0

    def preempt() -> None:
        nonlocal steps
        steps += 1
        if steps % 7 == 0 and scheduler._live.running:
            scheduler._live.preempt(scheduler._live.running[-1])

    again = run(built, *requests, each_step=preempt)
    assert scheduler.stats().preemptions > 3
    assert {key: tokens(deltas) for key, deltas in again.items()} == undisturbed


def test_a_finished_text_is_filled_up_with_end_tokens_where_more_are_asked_for(built: BuiltEngine) -> None:
    outputs = run(
        built,
        request("least", DIGITS, min_tokens=9),
        request("on", DIGITS, ignore_eos=True, max_tokens=12),
        request("short", DIGITS, max_tokens=2),
    )
    least, on, short = outputs["least", 0], outputs["on", 0], outputs["short", 0]
    assert (text(least).isdigit(), tokens(least)[3:], least[-1].finish_reason) == (True, [EOS] * 6, "stop")
    assert (tokens(on)[3:], on[-1].finish_reason) == ([EOS] * 9, "length")
    assert (len(text(short)), short[-1].finish_reason) == (2, "length")


def test_min_tokens_lengthens_a_text_that_may_go_on(built: BuiltEngine) -> None:
    grammar = LLMatcher.grammar_from_regex("a+")
    assert text(run(built, request("x", grammar, min_tokens=25, max_tokens=26))["x", 0]).startswith("a" * 25)


def test_other_parameters_choose_among_what_the_grammar_allows(built: BuiltEngine) -> None:
    seven, two = ids("7")[0], ids("2")[0]
    outputs = run(
        built,
        request("biased", DIGITS, logit_bias={seven: 100.0, ids("x")[0]: 100.0}),
        request("allowed", DIGITS, allowed_token_ids=(two, EOS)),
        request("nothing", DIGITS, allowed_token_ids=(ids("x")[0],)),
        request("greedy", DIGITS, temperature=0.0),
    )
    assert text(outputs["biased", 0]) == "777"
    assert text(outputs["allowed", 0]) == "222"
    assert text(outputs["greedy", 0]).isdigit()
    assert failure(outputs["nothing", 0]).code == "invalid_grammar"


def test_a_grammar_that_cannot_be_compiled_fails_its_request_alone(built: BuiltEngine) -> None:
    outputs = run(built, request("bad", LLMatcher.grammar_from_regex("[0-9")), request("good"), request("free", None))
    assert failure(outputs["bad", 0]).code == "invalid_grammar"
    assert "unclosed" in failure(outputs["bad", 0]).message
    jsonschema.validate(json.loads(text(outputs["good", 0])), SCHEMA)
    assert tokens(outputs["free", 0])


def test_a_grammar_that_grows_too_complex_fails_its_request_alone(built: BuiltEngine) -> None:
    """Each byte can be read in more ways than the last, until a mask would take too long."""
    ambiguous = LLMatcher.grammar_from_lark('start: a\na: a a a | "x" | "y" a | b a\nb: "x" b a | "x"\n')
    only_x = (ids("x")[0],)
    outputs = run(
        built, request("complex", ambiguous, max_tokens=400, allowed_token_ids=only_x, ignore_eos=True), request("good")
    )
    assert failure(outputs["complex", 0]).code == "invalid_grammar"
    jsonschema.validate(json.loads(text(outputs["good", 0])), SCHEMA)


class Panic(BaseException):
    """As the library's own, which are no Exceptions."""


def test_a_library_that_panics_fails_the_request_alone(built: BuiltEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_, is_ready = GrammarVocabulary.matcher, GrammarMasks.is_ready
    fill, poisoned = grammar_masks.fill_next_token_bitmask_par, set()

    def panicking(self: GrammarVocabulary, grammar: str) -> LLMatcher:
        if grammar == "panic":
            raise Panic
        return compile_(self, grammar)

    def noting(self: GrammarMasks, sequence: Sequence) -> bool:
        if ready := is_ready(self, sequence):
            poisoned.update({id(self._readers[sequence].matcher)} if sequence.request_id == "poison" else ())
        return ready

    def filling(executor: Any, matchers: list[tuple[LLMatcher, int]], bits: Any) -> None:
        if any(id(matcher) in poisoned for matcher, _ in matchers):
            raise Panic
        fill(executor, matchers, bits)

    alone = tokens(run(built, request("a"))["a", 0])
    monkeypatch.setattr(GrammarVocabulary, "matcher", panicking)
    monkeypatch.setattr(GrammarMasks, "is_ready", noting)
    monkeypatch.setattr(grammar_masks, "fill_next_token_bitmask_par", filling)
    outputs = run(built, request("a"), request("panic", "panic"), request("poison", DIGITS), request("b"))
    assert tokens(outputs["a", 0]) == alone
    assert outputs["b", 0][-1].finish_reason == "stop"
    assert [outputs[name, 0][-1].failure.code for name in ("panic", "poison")] == ["invalid_grammar", "internal_error"]


def test_others_run_while_a_grammar_compiles(built: BuiltEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    matcher = GrammarVocabulary.matcher

    def slow(self: GrammarVocabulary, grammar: str) -> LLMatcher:
        release.wait(20)
        return matcher(self, grammar)

    monkeypatch.setattr(GrammarVocabulary, "matcher", slow)
    built.engine.add_request(request("slow"))
    assert tokens(run_until(built, "free", request("free", None, max_tokens=5, ignore_eos=True)))
    assert built.engine.has_work
    built.engine.step()
    assert built.engine.is_stalled
    release.set()
    jsonschema.validate(json.loads(text(run(built)["slow", 0])), SCHEMA)


def run_until(built: BuiltEngine, name: str, *requests: GenerateRequest) -> list[TokenDelta]:
    """Steps until that request has ended, whatever else goes on."""
    deltas: list[TokenDelta] = []
    for each in requests:
        built.engine.add_request(each)
    while not deltas or deltas[-1].finish_reason is None:
        deltas += [delta for delta in built.engine.step() if delta.request_id == name]
    return deltas


def test_a_model_without_a_tokenizer_refuses_grammars(tiny_config: Any, save_model: Any, start_engine: Any) -> None:
    _, folder = save_model(tiny_config(LlamaConfig))
    with pytest.raises(ValueError, match="tokenizer cannot be used"):
        start_engine(folder).engine.add_request(request("x"))


# ---- masks


@pytest.fixture
def vocabulary() -> GrammarVocabulary:
    return GrammarVocabulary(TOKENIZER.to_str(), VOCAB, [EOS])


def sequence(grammar: str | None, output: str = "", name: str = "s") -> Sequence:
    made = make_sequences(request(name, grammar), 0)[0]
    for token in ids(output):
        made.append_token(token)
    return made


def ready(masks: GrammarMasks, *sequences: Sequence) -> None:
    for each in sequences:
        masks.begin(each)
        while not masks.is_ready(each):
            pass


def allowed(bits: Any) -> set[int]:
    logits = torch.zeros(1, VOCAB)
    apply_bitmask_(logits, torch.tensor([0]), torch.from_numpy(bits[None]))
    return set(torch.nonzero(logits[0] == 0).flatten().tolist())


def test_masks_follow_the_output_from_wherever_it_stands(vocabulary: GrammarVocabulary) -> None:
    masks = GrammarMasks(vocabulary)
    begun, midway, done = sequence(DIGITS), sequence(DIGITS, "12"), sequence(DIGITS, "123")
    ready(masks, begun, midway, done)
    digits = set(ids("0123456789"))
    found = masks.masks([begun, midway, done])
    assert [allowed(bits) for bits in found.bits] == [digits, digits, {EOS}]
    assert (found.is_over.tolist(), found.errors) == ([False, False, True], {})
    midway.append_token(ids("3")[0])
    assert allowed(masks.masks([midway]).bits[0]) == {EOS}
    masks.close()


def test_prepared_masks_are_used_and_others_made_anew(
    vocabulary: GrammarVocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    compute = GrammarMasks._compute

    def counting(self: GrammarMasks, readers: Any, unread: Any) -> Any:
        computed.append(len(readers))
        return compute(self, readers, unread)

    monkeypatch.setattr(GrammarMasks, "_compute", counting)
    masks = GrammarMasks(vocabulary)
    a, b, free = sequence(DIGITS, name="a"), sequence(DIGITS, "1", name="b"), sequence(None)
    ready(masks, a, b)
    masks.prepare([a, free, b])
    masks.masks([b])
    masks.masks([a, b])
    assert computed == [2]
    a.append_token(ids("4")[0])
    masks.masks([a])
    assert computed == [2, 1]
    masks.close()


def test_a_text_that_the_grammar_does_not_allow_is_an_error_of_its_row(vocabulary: GrammarVocabulary) -> None:
    masks = GrammarMasks(vocabulary)
    good, bad = sequence(DIGITS, "1"), sequence(DIGITS, "x")
    ready(masks, good, bad)
    found = masks.masks([bad, good])
    assert list(found.errors) == [0]
    assert allowed(found.bits[1]) == set(ids("0123456789"))
    masks.close()


def test_equal_grammars_are_compiled_once_and_few_are_kept(
    vocabulary: GrammarVocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grammar_masks, "_CACHED_GRAMMARS", 3)
    masks = GrammarMasks(vocabulary)
    sequences = [sequence(LLMatcher.grammar_from_regex(f"[0-9]{{{n}}}")) for n in (1, 2, 3, 4, 4)]
    ready(masks, *sequences)
    assert len(masks._compiled) == 3
    assert [masks.masks([each]).errors for each in sequences] == [{}] * 5
    masks.close()


def test_tokens_beyond_the_models_rows_are_never_allowed() -> None:
    """A tokenizer may have more tokens than the model has rows: 40 more here, some of which spell digits."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"{n}{n}" for n in range(10)] + [f"x{n}" for n in range(30)])
    rows = EOS + 1
    vocabulary = GrammarVocabulary(tokenizer.to_str(), rows, [EOS])
    masks = GrammarMasks(vocabulary)
    begun, done = sequence(DIGITS), sequence(DIGITS, "123")
    ready(masks, begun, done)
    found = masks.masks([begun, done])
    unpacked = np.unpackbits(found.bits.view(np.uint8), axis=1, bitorder="little")
    assert unpacked.shape == (2, -(-rows // 32) * 32)
    assert np.nonzero(unpacked[0])[0].tolist() == sorted(ids("0123456789"))
    assert np.nonzero(unpacked[1])[0].tolist() == [EOS]
    assert found.is_over.tolist() == [False, True]
    masks.close()


def test_a_vocabulary_says_why_it_cannot_be_used() -> None:
    with pytest.raises(GrammarError, match="end-of-sequence"):
        GrammarVocabulary(TOKENIZER.to_str(), VOCAB, [])
    with pytest.raises(GrammarError, match="cannot be used"):
        GrammarVocabulary("{}", VOCAB, [EOS])


def test_a_sampler_without_grammars_prepares_nothing() -> None:
    Sampler(VOCAB).prepare([sequence(None)])
