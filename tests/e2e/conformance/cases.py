"""The table: parameters as clients send them, and what their answers must be like beside the plain greedy one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.e2e.conformance.answers import Answered, Choice

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
PROMPT = "Show the name and price of all products with a price above 40, highest price first."
CONTENT: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": PROMPT}]},
    COMPLETIONS: {"prompt": PROMPT},
}
LENGTH = 12
Fields = dict[str, Any]


@dataclass
class Plain:
    """The greedy answer to CONTENT, its token ids, and those of its prompt."""

    text: str
    token_ids: list[int]
    prompt_ids: list[int]


Check = Callable[[Answered, Plain], None]


@dataclass(frozen=True)
class Case:
    """fields: of the request, from the plain answer. streams: whether a stream may be asked for it."""

    name: str
    fields: Callable[[Plain], Fields]
    check: Check
    paths: tuple[str, ...] = (CHAT, COMPLETIONS)
    streams: bool = True


def same(answered: Answered, plain: Plain) -> None:
    """Greedy, and of the usual length."""
    (choice,) = answered.choices
    assert choice.text == plain.text


def anything(answered: Answered, plain: Plain) -> None:
    assert all(choice.reason in ("stop", "length") for choice in answered.choices)


def choices(count: int) -> Check:
    def check(answered: Answered, plain: Plain) -> None:
        assert len(answered.choices) == count

    return check


def of_tokens(rule: Callable[[list[int], Plain], bool]) -> Check:
    def check(answered: Answered, plain: Plain) -> None:
        for choice in answered.choices:
            assert choice.token_ids
            assert rule(choice.token_ids, plain)

    return check


def of_choice(rule: Callable[[Choice, Plain], bool]) -> Check:
    def check(answered: Answered, plain: Plain) -> None:
        assert all(rule(choice, plain) for choice in answered.choices), answered.choices

    return check


def ends(reason: str, stop: Callable[[Plain], str | int | None]) -> Check:
    def check(answered: Answered, plain: Plain) -> None:
        for choice in answered.choices:
            assert (choice.reason, choice.stop) == (reason, stop(plain))

    return check


def _has_tops(count: int, path_counts_chosen: bool) -> Check:
    def check(answered: Answered, plain: Plain) -> None:
        for choice in answered.choices:
            assert len(choice.logprobs) == len(choice.tops) >= 1
            assert all(value is not None and value <= 0 for value in choice.logprobs)
            assert all(count <= len(top) <= count + path_counts_chosen for top in choice.tops)

    return check


def fixed(**fields: Any) -> Callable[[Plain], Fields]:
    return lambda plain: fields


def _plain_cases() -> list[Case]:
    """Accepted, and without influence on a greedy answer."""
    harmless: dict[str, Fields] = {
        "user": {"user": "somebody"},
        "metadata": {"metadata": {"a": "b"}},
        "service_tier": {"service_tier": "auto"},
        "store": {"store": False},
        "an unknown field": {"no_such_field": [1, {"a": None}]},
        "null fields": {"top_p": None, "n": None, "stop": None, "logit_bias": None, "seed": None},
        "seed": {"seed": 7},
        "negative seed": {"seed": -7},
        "top_p": {"top_p": 0.1},
        "top_k": {"top_k": 3},
        "top_k off": {"top_k": -1},
        "min_p": {"min_p": 0.3},
        "n of one": {"n": 1},
        "best_of of one": {"best_of": 1},
        "stop that never comes": {"stop": ["¤¤¤"]},
        "empty stop list": {"stop": []},
        "zero penalties": {"presence_penalty": 0, "frequency_penalty": 0.0, "repetition_penalty": 1},
        "cache_salt": {"cache_salt": "pepper"},
        "priority": {"priority": 3},
        "empty logit_bias": {"logit_bias": {}},
        "text format": {"response_format": {"type": "text"}},
        "empty adapters": {"adapters": []},
        "no bad words": {"bad_words": []},
        "stream options without a stream": {"stream_options": None},
        "min_tokens": {"min_tokens": 2},
        "spaces between special tokens": {"spaces_between_special_tokens": False},
        "beam of one": {"use_beam_search": True, "n": 1},
        "early stopping alone": {"early_stopping": True, "length_penalty": 0.5},
    }
    return [Case(name, fixed(**fields), same) for name, fields in harmless.items()]


def _choosing_cases() -> list[Case]:
    return [
        Case("temperature", fixed(temperature=1.5, seed=3), anything),
        Case("very hot", fixed(temperature=100.0, seed=3), anything),
        Case("top_k of one is greedy", fixed(temperature=1.0, top_k=1, seed=1), same),
        Case("tiny top_p is greedy", fixed(temperature=1.0, top_p=1e-6, seed=1), same),
        Case("min_p of one is greedy", fixed(temperature=1.0, min_p=1.0, seed=1), same),
        Case("penalties", fixed(presence_penalty=2, frequency_penalty=2, repetition_penalty=1.3), anything),
        Case("n", fixed(n=3, temperature=1.0, seed=5), choices(3)),
        Case("best_of", fixed(n=1, best_of=3, temperature=1.0, seed=5), choices(1), streams=False),
        Case("best_of and n", fixed(n=2, best_of=4, temperature=1.0, seed=5), choices(2), streams=False),
        Case("beams", fixed(use_beam_search=True, n=3), choices(3)),
        Case("beams of best_of", fixed(use_beam_search=True, n=1, best_of=3), choices(1), streams=False),
        Case(
            "long beams",
            fixed(use_beam_search=True, n=2, length_penalty=2.0, early_stopping="never"),
            choices(2),
        ),
        Case(
            "logit_bias",
            lambda plain: {"logit_bias": {str(plain.token_ids[3]): 100}, "return_token_ids": True},
            of_tokens(lambda ids, plain: set(ids) == {plain.token_ids[3]}),
        ),
        Case(
            "allowed_token_ids",
            lambda plain: {"allowed_token_ids": plain.token_ids[1:4], "return_token_ids": True},
            of_tokens(lambda ids, plain: set(ids) <= set(plain.token_ids[1:4])),
        ),
        Case(
            "bad_words",
            lambda plain: {"bad_words": [plain.text.split()[0]]},
            of_choice(lambda choice, plain: not choice.text.startswith(plain.text.split()[0])),
        ),
        Case(
            "a mix of one",
            lambda plain: {"model": "multiflora-demo", "adapters": [{"name": "sql"}]},
            same,
        ),
        Case(
            "a mix",
            fixed(
                model="multiflora-demo", adapters=[{"name": "sql", "weight": 0.7}, {"name": "pirate", "weight": 0.5}]
            ),
            anything,
        ),
        Case("an alias", fixed(model="sql@default"), same),
        Case("a version", fixed(model="sql@1"), same),
    ]


def _ending_cases() -> list[Case]:
    return [
        Case("max_tokens", fixed(max_tokens=3), ends("length", lambda plain: None)),
        Case("one token", fixed(max_tokens=1), ends("length", lambda plain: None)),
        Case("stop", lambda plain: {"stop": plain.text[4:7]}, ends("stop", lambda plain: plain.text[4:7])),
        Case(
            "several stops",
            lambda plain: {"stop": ["¤¤", plain.text[4:7], "§§"]},
            of_choice(lambda choice, plain: choice.text == plain.text[:4] and choice.stop == plain.text[4:7]),
        ),
        Case(
            "include_stop_str_in_output",
            lambda plain: {"stop": [plain.text[4:7]], "include_stop_str_in_output": True},
            of_choice(lambda choice, plain: choice.text == plain.text[:7]),
        ),
        Case(
            "a stop below min_tokens",
            lambda plain: {"stop": [plain.text[:2]], "min_tokens": LENGTH},
            of_choice(lambda choice, plain: choice.stop is None),
        ),
        Case(
            "stop_token_ids",
            lambda plain: {"stop_token_ids": [plain.token_ids[5]]},
            ends("stop", lambda plain: plain.token_ids[5]),
        ),
        Case(
            "stop_token_ids in the text",
            lambda plain: {"stop_token_ids": [plain.token_ids[5]], "include_stop_str_in_output": True},
            ends("stop", lambda plain: plain.token_ids[5]),
        ),
        Case("ignore_eos", fixed(ignore_eos=True, max_tokens=90), ends("length", lambda plain: None)),
        Case("to its own end", fixed(max_tokens=90), ends("stop", lambda plain: None)),
        Case(
            "the end shown",
            fixed(max_tokens=90, skip_special_tokens=False, include_stop_str_in_output=True),
            of_choice(lambda choice, plain: choice.text.endswith("<|end|>")),
        ),
    ]


def _reporting_cases() -> list[Case]:
    return [
        Case(
            "return_token_ids",
            fixed(return_token_ids=True),
            of_tokens(lambda ids, plain: ids == plain.token_ids),
        ),
        Case("logprobs of chat", fixed(logprobs=True), _has_tops(0, False), (CHAT,)),
        Case("top_logprobs", fixed(logprobs=True, top_logprobs=4), _has_tops(4, False), (CHAT,)),
        Case("most top_logprobs", fixed(logprobs=True, top_logprobs=20), _has_tops(20, False), (CHAT,)),
        Case("logprobs", fixed(logprobs=3), _has_tops(3, True), (COMPLETIONS,)),
        Case("no alternatives", fixed(logprobs=0), _has_tops(0, True), (COMPLETIONS,)),
        Case("logprobs of n", fixed(logprobs=2, n=2, temperature=1.0, seed=2), _has_tops(2, True), (COMPLETIONS,)),
        Case("logprobs of beams", fixed(logprobs=2, n=2, use_beam_search=True), _has_tops(2, True), (COMPLETIONS,)),
        Case(
            "tokens as ids",
            fixed(logprobs=1, return_tokens_as_token_ids=True),
            of_choice(lambda choice, plain: all(key.startswith("token_id:") for top in choice.tops for key in top)),
            (COMPLETIONS,),
        ),
        Case(
            "echo",
            fixed(echo=True),
            of_choice(lambda choice, plain: choice.text == PROMPT + plain.text),
            (COMPLETIONS,),
        ),
        Case(
            "echo alone",
            fixed(echo=True, max_tokens=0),
            of_choice(lambda choice, plain: choice.text == PROMPT),
            (COMPLETIONS,),
        ),
        Case("prompt_logprobs", fixed(prompt_logprobs=2), same, streams=False),
        Case("several prompts", fixed(prompt=["a", "bc"]), choices(2), (COMPLETIONS,)),
        Case("several prompts, n each", fixed(prompt=["a", "bc"], n=2, seed=1), choices(4), (COMPLETIONS,)),
        Case("token ids", lambda plain: {"prompt": plain.prompt_ids}, same, (COMPLETIONS,)),
        Case("lists of ids", lambda plain: {"prompt": [plain.prompt_ids, [5]]}, choices(2), (COMPLETIONS,)),
        Case(
            "truncate_prompt_tokens",
            fixed(truncate_prompt_tokens=4, max_tokens=2),
            anything,
        ),
        Case("truncate to what fits", fixed(truncate_prompt_tokens=-1), same),
    ]


def _chat_cases() -> list[Case]:
    system = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}]
    begun = [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": "SELECT"}]
    table: dict[str, tuple[Fields, Check]] = {
        "a system message": ({"messages": system}, anything),
        "a developer message": ({"messages": [{**system[0], "role": "developer"}, system[1]]}, anything),
        "text parts": ({"messages": parts}, same),
        "a name": ({"messages": [{"role": "user", "name": "ann", "content": PROMPT}]}, same),
        "max_completion_tokens": ({"max_completion_tokens": 2, "max_tokens": None}, ends("length", lambda plain: None)),
        "continue_final_message": ({"messages": begun, "continue_final_message": True}, anything),
        "without a generation prompt": ({"add_generation_prompt": False}, anything),
        "chat_template_kwargs": ({"chat_template_kwargs": {"enable_thinking": False}}, same),
        "documents": ({"documents": [{"title": "a", "text": "b"}]}, same),
        "special tokens added": ({"add_special_tokens": True}, anything),
        "tool_choice none": ({"tool_choice": "none"}, same),
        "modalities": ({"modalities": ["text"]}, same),
    }
    return [Case(name, fixed(**fields), check, (CHAT,)) for name, (fields, check) in table.items()]


CASES = [*_plain_cases(), *_choosing_cases(), *_ending_cases(), *_reporting_cases(), *_chat_cases()]
CALLS = [(path, case) for case in CASES for path in case.paths]
STREAMS = [(path, case) for path, case in CALLS if case.streams]


def label(value: Any) -> str:
    return value.name if isinstance(value, Case) else str(value).removeprefix("/v1/")


def request(path: str, case: Case, plain: Plain) -> Fields:
    return {"model": "sql", "temperature": 0, "max_tokens": LENGTH, **CONTENT[path], **case.fields(plain)}
