"""POST /v1/completions: prompts of every form, choices, echo, log-probabilities, usage, streams."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.platform.gateway.house import END, MAX_LEN, House

from multiflora_engine.protocol.requests import EngineFailure

PATH = "/v1/completions"
REPLY = "Hello, wörld!"
NUM_REPLY = len(REPLY.encode()) + 1


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "base", "prompt": "Say", "max_tokens": 64, **fields}


async def test_a_prompt_is_continued_until_the_end_token(house: House) -> None:
    answer = (await house.post(PATH, body())).json()
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == (REPLY, "stop", None)
    assert (answer["object"], answer["model"], answer["id"][:5]) == ("text_completion", "base", "cmpl-")
    assert answer["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": NUM_REPLY,
        "total_tokens": 3 + NUM_REPLY,
        "prompt_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 1},
    }


async def test_what_the_cache_had_and_got_is_summed_over_prompts_and_told_once_for_all_answers(house: House) -> None:
    answer = (await house.post(PATH, body(prompt=["abcdef", "abc"], n=2))).json()
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 4, "cache_write_tokens": 3}


BEYOND: dict[str, tuple[str, dict[str, Any], str]] = {
    "a prompt": (PATH, {"prompt": ["x", "a<|assistant|>b"]}, "prompt"),
    "a conversation": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}, "messages"),
    "a response": ("/v1/responses", {"input": "x"}, "input"),
    "an input": ("/v1/embeddings", {"input": "<|assistant|>"}, "input"),
    "a text to compare": ("/v1/score", {"text_1": "x", "text_2": "<|assistant|>"}, "text_2"),
}


@pytest.mark.parametrize("name", BEYOND)
async def test_a_text_whose_token_the_model_lacks_is_blamed_on_the_text(house: House, name: str) -> None:
    path, fields, param = BEYOND[name]
    size = house.services.model.vocab_size
    house.services.groups.default.model = replace(house.services.model, vocab_size=size - 1)
    response = await house.post(path, {"model": "base", **fields})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert f"{param} holds '<|assistant|>', token {size - 1} of the tokenizer" in error["message"]
    assert f"{size - 1} rows" in error["message"]
    assert not house.engine.requests


async def test_an_adapter_is_resolved_once_and_leased(house: House) -> None:
    answer = (await house.post(PATH, body(model="sql@3", max_tokens=2))).json()
    assert answer["model"] == "sql@3"
    assert house.engine.requests[0].adapter_digest == "d" * 64
    assert house.registry.leased == []
    await house.post(PATH, body())
    assert house.engine.requests[1].adapter_digest is None


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("ab", [["a", "b"]]),
        (["ab", "c"], [["a", "b"], ["c"]]),
        ("token ids", [["a", "b"]]),
        ("lists of token ids", [["a"], ["b", "c"]]),
    ],
)
async def test_every_form_of_prompt(house: House, prompt: Any, ids: list[list[str]]) -> None:
    encode = house.services.model.tokenizer.encode
    expected = [encode("".join(letters)) for letters in ids]
    prompt = {"token ids": expected[0], "lists of token ids": expected}.get(str(prompt), prompt)
    answer = (await house.post(PATH, body(prompt=prompt, max_tokens=3))).json()
    assert [request.prompt_token_ids for request in house.engine.requests] == expected
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(expected)))
    assert answer["usage"]["prompt_tokens"] == sum(map(len, expected))
    assert answer["usage"]["completion_tokens"] == 3 * len(expected)


async def test_choices_are_numbered_by_prompt_then_answer(house: House) -> None:
    answer = (await house.post(PATH, body(prompt=["a", "b"], n=2, max_tokens=2, echo=True))).json()
    texts = [(choice["index"], choice["text"]) for choice in answer["choices"]]
    assert texts == [(0, "aHe"), (1, "aHe"), (2, "bHe"), (3, "bHe")]


async def test_best_of_returns_the_likeliest_and_counts_all(house: House) -> None:
    answer = (await house.post(PATH, body(n=1, best_of=3, max_tokens=2, logprobs=0))).json()
    [choice] = answer["choices"]
    assert choice["index"] == 0
    assert choice["logprobs"]["token_logprobs"] == pytest.approx([-2 / 3, -2 / 3])
    assert answer["usage"]["completion_tokens"] == 6
    plain = (await house.post(PATH, body(best_of=2, max_tokens=2))).json()
    assert plain["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(
    ("replies", "likeliest"),
    [
        # Answer i has -2 / (i + 1) for each token, the end's included: -4 against -5, although -2 < -1 on the average.
        (("a", "abcd"), "a"),
        (("abcd", "a"), "a"),
        (("abcd", "abcde", "abcdefghi"), "abcde"),
    ],
)
async def test_best_of_sums_log_probabilities(house: House, replies: tuple[str, ...], likeliest: str) -> None:
    """The mean would choose the longest answer in the first case and the last."""
    house.engine.replies = replies
    answer = (await house.post(PATH, body(n=1, best_of=len(replies), max_tokens=20))).json()
    [choice] = answer["choices"]
    assert (choice["index"], choice["text"], choice["finish_reason"]) == (0, likeliest, "stop")
    assert answer["usage"]["completion_tokens"] == sum(len(reply) + 1 for reply in replies)


async def test_log_probabilities(house: House) -> None:
    answer = (await house.post(PATH, body(logprobs=2, max_tokens=2))).json()
    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["H", "e"],
        "token_logprobs": [-2.0, -2.0],
        "top_logprobs": [{"H": -2.0, "I": -3.0}, {"e": -2.0, "f": -3.0}],
        "text_offset": [0, 1],
    }


@pytest.mark.parametrize("max_tokens", [0, 1])
async def test_echo_scores_the_prompt_as_lm_eval_asks(house: House, max_tokens: int) -> None:
    ids = house.services.model.tokenizer.encode("Say")
    prompt = [ids, ids[:2]]
    answer = (await house.post(PATH, body(prompt=prompt, echo=True, logprobs=1, max_tokens=max_tokens))).json()
    for choice, prompt_ids in zip(answer["choices"], prompt, strict=True):
        scores = choice["logprobs"]
        length = len(prompt_ids) + max_tokens
        assert choice["finish_reason"] == "length"
        assert choice["text"] == ("Say" + "H")[: len(prompt_ids)] + "H" * max_tokens
        assert {len(scores[key]) for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset")} == {length}
        assert scores["token_logprobs"][0] is scores["top_logprobs"][0] is None
        assert all(
            max(top.values()) == own
            for own, top in zip(scores["token_logprobs"][1:], scores["top_logprobs"][1:], strict=True)
        )


async def test_a_full_context_can_be_scored(house: House) -> None:
    prompt = house.services.model.tokenizer.encode("x" * MAX_LEN)
    assert (await house.post(PATH, body(prompt=prompt, echo=True, logprobs=1, max_tokens=0))).status_code == 200


async def test_prompt_logprobs_as_vllm_writes_them(house: House) -> None:
    answer = (await house.post(PATH, body(prompt="ab", prompt_logprobs=1, max_tokens=1))).json()
    first, second = answer["choices"][0]["prompt_logprobs"]
    token_id = str(house.engine.requests[0].prompt_token_ids[1])
    assert first is None
    assert second[token_id] == {"logprob": -2.0, "rank": 1, "decoded_token": "b"}


async def test_token_ids_are_returned_on_request(house: House) -> None:
    [choice] = (await house.post(PATH, body(return_token_ids=True, max_tokens=2))).json()["choices"]
    encode = house.services.model.tokenizer.encode
    assert (choice["prompt_token_ids"], choice["token_ids"]) == (encode("Say"), encode("He"))
    events = await house.events(PATH, body(return_token_ids=True, max_tokens=2))
    assert events[0]["choices"][0]["prompt_token_ids"] == encode("Say")
    assert [event["choices"][0]["token_ids"] for event in events[:-1]] == [[token] for token in encode("He")]


async def test_tokens_as_ids_do_not_collide(house: House) -> None:
    response = await house.post(PATH, body(return_tokens_as_token_ids=True, logprobs=1, max_tokens=1))
    [choice] = response.json()["choices"]
    token_id = house.services.model.tokenizer.encode("H")[0]
    assert choice["logprobs"]["tokens"] == [f"token_id:{token_id}"]


@pytest.mark.parametrize(
    ("fields", "text", "stop_reason"),
    [
        ({"stop": "o, w"}, "Hell", "o, w"),
        ({"stop": ["zzz", "lo"]}, "Hel", "lo"),
        ({"stop": "lo", "include_stop_str_in_output": True}, "Hello", "lo"),
        ({"stop": "l", "min_tokens": 3}, "Hel", "l"),
        ({"stop": "ö"}, "Hello, w", "ö"),
    ],
)
async def test_stop_strings_end_the_answer_and_the_engine(
    house: House, fields: dict[str, Any], text: str, stop_reason: str
) -> None:
    house.engine.pace = 0.001
    [choice] = (await house.post(PATH, body(**fields))).json()["choices"]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == (text, "stop", stop_reason)
    events = await house.events(PATH, body(**fields))
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == text
    assert len(house.engine.aborted) == 2


async def test_a_stop_string_ends_its_own_answer_in_the_engine_at_once(house: House) -> None:
    house.engine.pace = 0.001
    choices = (await house.post(PATH, body(n=3, stop="o, w"))).json()["choices"]
    assert [choice["text"] for choice in choices] == ["Hell"] * 3
    request = house.engine.requests[-1].id
    assert house.engine.ended == [(request, 0), (request, 1)]
    assert house.engine.aborted == [request]


async def test_the_end_token_shows_only_when_stops_are_kept(house: House) -> None:
    shown = body(include_stop_str_in_output=True, skip_special_tokens=False)
    assert (await house.post(PATH, shown)).json()["choices"][0]["text"] == REPLY + END


async def test_a_stream_is_the_answer_in_pieces(house: House) -> None:
    *events, done = await house.events(PATH, body(stream_options={"include_usage": True}))
    *chunks, last = events
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == REPLY
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all("�" not in chunk["choices"][0]["text"] for chunk in chunks)
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == NUM_REPLY
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 1, "cache_write_tokens": 1}
    assert len({chunk["id"] for chunk in events}) == 1


async def test_usage_in_every_chunk(house: House) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *events, last, _ = await house.events(PATH, body(stream_options=options, max_tokens=3))
    assert [event["usage"]["completion_tokens"] for event in [*events, last]] == [1, 2, 3, 3]


async def test_streams_of_several_prompts_and_answers(house: House) -> None:
    house.engine.pace = 0.001
    *events, done = await house.events(PATH, body(prompt=["a", "b"], n=2, echo=True, logprobs=1, max_tokens=3))
    texts: dict[int, str] = {}
    offsets: dict[int, list[int]] = {}
    for event in events:
        [choice] = event["choices"]
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
        offsets.setdefault(choice["index"], []).extend(choice["logprobs"]["text_offset"])
    assert done == "[DONE]"
    assert texts == {0: "aHel", 1: "aHel", 2: "bHel", 3: "bHel"}
    assert set(map(tuple, offsets.values())) == {(0, 1, 2, 3)}


async def test_a_stream_that_fails_ends_with_the_error(house: House) -> None:
    house.engine.failure, house.engine.fail_after = EngineFailure("engine_dead", "The engine died."), 3
    *events, last = await house.events(PATH, body())
    assert "".join(event["choices"][0]["text"] for event in events) == "Hel"
    assert last == {
        "error": {"message": "The engine died.", "type": "server_error", "param": None, "code": "engine_dead"}
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("code", "status", "retry"),
    [
        ("server_overloaded", 429, "1"),
        ("adapter_unavailable", 503, "1"),
        ("adapter_loading", 503, "1"),
        ("engine_dead", 503, "1"),
        ("deadline_exceeded", 504, None),
        ("internal_error", 500, None),
    ],
)
async def test_a_failure_before_the_first_token_is_a_status(
    house: House, stream: bool, code: str, status: int, retry: str | None
) -> None:
    house.engine.failure = EngineFailure(code, "why")
    response = await house.post(PATH, body(stream=stream, model="sql", prompt=["a", "b"]))
    assert (response.status_code, response.headers.get("retry-after")) == (status, retry)
    assert response.json()["error"]["code"] == code
    assert (house.registry.leased, house.services.active) == ([], set())


async def test_generation_defaults_hold_unless_the_client_says_otherwise(make_house: Any) -> None:
    house = make_house(temperature=0.6, top_p=0.9, top_k=20.0, repetition_penalty=1.1)
    async with house.http:
        await house.post(PATH, body(top_p=0.5))
        await house.post(PATH, body(top_k=-1))
    params, other = [request.params for request in house.engine.requests]
    assert (params.temperature, params.top_p, params.top_k, params.repetition_penalty) == (0.6, 0.5, 20, 1.1)
    assert (other.top_p, other.top_k) == (0.9, 0)


async def test_the_default_length_is_that_of_generation_config(make_house: Any) -> None:
    house = make_house(max_new_tokens=40)
    message = [{"role": "user", "content": "a"}]
    async with house.http:
        await house.post(PATH, {"model": "base", "prompt": "a"})
        await house.post(PATH, {"model": "base", "prompt": "a", "max_tokens": 3})
        await house.post("/v1/chat/completions", {"model": "base", "messages": message})
        await house.post("/v1/responses", {"model": "base", "input": "a"})
        await house.post("/v1/responses", {"model": "base", "input": "a", "max_output_tokens": 2})
    lengths = [request.params.max_tokens for request in house.engine.requests]
    assert lengths == [40, 3, 40, 40, 2]


async def test_every_sampling_field_reaches_the_engine(house: House) -> None:
    fields = {
        "temperature": 0.5, "top_p": 0.4, "top_k": 3, "min_p": 0.1, "presence_penalty": 0.2, "frequency_penalty": 0.3,
        "repetition_penalty": 1.2, "seed": 7, "min_tokens": 1, "ignore_eos": True, "include_stop_str_in_output": True,
        "skip_special_tokens": False, "spaces_between_special_tokens": False,
    }  # fmt: skip
    lists = {"stop": ["x"], "stop_token_ids": [5], "bad_words": ["no"], "allowed_token_ids": [1, 2]}
    others = {"logit_bias": {"5": 1.5}, "max_tokens": 4, "priority": -3, "user": "u"}
    response = await house.post(PATH, body(**fields, **lists, **others))
    assert response.status_code == 200
    [request] = house.engine.requests
    assert {name: getattr(request.params, name) for name in fields} == fields
    assert {name: list(getattr(request.params, name)) for name in lists} == lists
    assert (request.params.logit_bias, request.priority) == ({5: 1.5}, -3)
    assert request.bad_word_ids[0] == house.services.model.tokenizer.encode("no")


async def test_the_default_length_is_16_or_what_fits(house: House) -> None:
    await house.post(PATH, {"model": "base", "prompt": "a"})
    await house.post(PATH, {"model": "base", "prompt": "a" * (MAX_LEN - 5)})
    assert [request.params.max_tokens for request in house.engine.requests] == [16, 5]


@pytest.mark.parametrize(("keep", "kept"), [(2, "yz"), (-1, "wxyz")])
async def test_truncation_keeps_the_end(house: House, keep: int, kept: str) -> None:
    prompt = "a" * MAX_LEN + "wxyz"
    await house.post(PATH, body(prompt=prompt, truncate_prompt_tokens=keep, max_tokens=MAX_LEN - 4))
    assert house.engine.requests[0].prompt_token_ids == house.services.model.tokenizer.encode(kept)


async def test_long_prompts_are_encoded_beside_the_event_loop(make_house: Any) -> None:
    house = make_house()
    async with house.http:
        response = await house.post(PATH, body(prompt="x" * 100_000))
    assert response.json()["error"]["code"] == "context_length_exceeded"
    assert "maximum context length is" in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("echo", [False, True])
async def test_text_offsets_are_positions_in_the_text(house: House, stream: bool, echo: bool) -> None:
    """After characters of several bytes, and after special tokens that the text leaves out."""
    house.engine.reply = "ö<|user|>€x"
    request = body(prompt="é<|end|>y", echo=echo, logprobs=0)
    if stream:
        *events, _ = await house.events(PATH, request)
        choices = [event["choices"][0] for event in events]
    else:
        choices = (await house.post(PATH, request)).json()["choices"]
    text = "".join(choice["text"] for choice in choices)
    offsets = [offset for choice in choices for offset in choice["logprobs"]["text_offset"]]
    # Two bytes of ö, the skipped token, three bytes of €, x and the end.
    answer = [0, 0, 1, 1, 1, 1, 2, 3]
    if echo:
        assert text == "é<|end|>yö€x", "the prompt is echoed as the client wrote it"
        start = len("é<|end|>y")
        assert offsets == [0, 0, 1, 8, *(start + offset for offset in answer)]
    else:
        assert (text, offsets) == ("ö€x", answer)


INTEGERS = {
    "n": 1,
    "best_of": 1,
    "max_tokens": 3,
    "min_tokens": 1,
    "top_k": 5,
    "seed": 7,
    "logprobs": 1,
    "prompt_logprobs": 1,
    "priority": 2,
    "truncate_prompt_tokens": 4,
    "stop_token_ids": [5],
    "allowed_token_ids": [5, 6],
    "prompt": [5, 6, 7],
}


@pytest.mark.parametrize("name", INTEGERS)
async def test_floats_without_a_fraction_are_integers(house: House, name: str) -> None:
    value: Any = INTEGERS[name]
    floats = [float(item) for item in value] if isinstance(value, list) else float(value)
    assert (await house.post(PATH, body(max_tokens=3) | {name: value})).status_code == 200
    response = await house.post(PATH, body(max_tokens=3) | {name: floats})
    assert response.status_code == 200, response.text
    integers, other = house.engine.requests
    assert (other.prompt_token_ids, other.params) == (integers.prompt_token_ids, integers.params)
    broken = [5.5] if isinstance(value, list) else value + 0.5
    assert (await house.post(PATH, body(max_tokens=3) | {name: broken})).status_code == 400


@pytest.mark.parametrize("name", sorted(set(INTEGERS) - {"stop_token_ids", "allowed_token_ids", "prompt"}))
async def test_an_integer_beyond_64_bits_is_refused_by_name(house: House, name: str) -> None:
    response = await house.post(PATH, body(max_tokens=3) | {name: 2**70})
    assert (response.status_code, response.json()["error"]["param"]) == (400, name)


@pytest.mark.parametrize(
    "name",
    [
        "lora_path",
        "adapter_id",
        "lora_request",
        "adapter",
        "adapter_name",
        "lora",
        "lora_name",
        "adapter_source",
        "loras",
        "adapter_path",
        "lora_int_id",
        "merged_adapters",
        "lora_adapter_name",
        "loraPath",
        "LoRA",
        "peft-model",
    ],
)
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (PATH, {"prompt": "x"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
        ("/v1/responses", {"input": "x"}),
        ("/v1/embeddings", {"input": "x"}),
    ],
)
async def test_an_adapter_that_is_named_as_elsewhere_is_refused(
    house: House, path: str, fields: dict[str, Any], name: str
) -> None:
    response = await house.post(path, {"model": "base", name: "sql", **fields})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, name)
    assert "name the adapter in model" in error["message"]
    assert (await house.post(path, {"model": "base", name: None, **fields})).status_code == 200


@pytest.mark.parametrize("inside", ["extra_body", "parameters", "sampling_params"])
async def test_nor_is_it_named_inside_another_field(house: House, inside: str) -> None:
    response = await house.post(PATH, {"model": "base", "prompt": "x", inside: {"top_k": 1, "adapter_id": "sql"}})
    assert (response.status_code, response.json()["error"]["param"]) == (400, f"{inside}.adapter_id")
    assert (await house.post(PATH, {"model": "base", "prompt": "x", inside: {"top_k": 1}})).status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"lora_path": "base"},
        {"lora_path": [None], "adapter_id": "", "loras": []},
        {"explorable": 1, "user": "adapter"},
        {"metadata": {"adapter": "sql"}},
        {"prompt": '"lora_path": "sql"'},
    ],
    ids=str,
)
async def test_what_names_no_other_adapter_is_no_fault(house: House, fields: dict[str, Any]) -> None:
    assert (await house.post(PATH, {"model": "base", "prompt": "x", **fields})).status_code == 200
