"""SamplingParams: ranges and normal form wherever they are made, assigned to or decoded."""

from __future__ import annotations

import copy
import math
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from multiflora_engine.protocol.sampling_params import (
    SamplingParams,
    StructuredOutputsParams,
    bad_word_token_ids,
    check_vocabulary,
)
from multiflora_engine.protocol.sampling_ranges import InvalidParameter

V = 50
FIELDS = sorted(field.name for field in msgspec.structs.fields(SamplingParams))
BAD_VALUES: list[tuple[str, Any]] = [
    ("n", 0),
    ("n", 10_000),
    ("n", 1.5),
    ("n", True),
    ("best_of", 0),
    ("temperature", -0.1),
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("temperature", "hot"),
    ("top_p", 0.0),
    ("top_p", 1.1),
    ("top_k", -2),
    ("top_k", 0.5),
    ("top_k", 2**70),
    ("min_p", -0.1),
    ("min_p", 1.5),
    ("presence_penalty", 2.1),
    ("frequency_penalty", -2.1),
    ("repetition_penalty", 0.0),
    ("repetition_penalty", 1e-297),
    ("repetition_penalty", 1e300),
    ("repetition_penalty", math.nan),
    ("max_tokens", -1),
    ("max_tokens", "16"),
    ("min_tokens", -1),
    ("min_tokens", 17),
    ("logprobs", 21),
    ("logprobs", -1),
    ("prompt_logprobs", 21),
    ("seed", 2**63),
    ("stop", ("",)),
    ("stop", 5),
    ("stop", [5]),
    ("stop_token_ids", 5),
    ("stop_token_ids", ["x"]),
    ("stop_token_ids", (-1,)),
    ("allowed_token_ids", ()),
    ("allowed_token_ids", (-1,)),
    ("logit_bias", [1]),
    ("logit_bias", {1: 101.0}),
    ("logit_bias", {1: math.nan}),
    ("logit_bias", {"x": 1.0}),
    ("bad_words", ("",)),
    ("bad_words", 5),
    ("ignore_eos", "yes"),
    ("skip_special_tokens", 1),
    ("structured_outputs", {"regex": "a"}),
    ("length_penalty", 11),
    ("early_stopping", "soon"),
]


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_a_bad_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidParameter, match=rf"^{name} must be .*got") as caught:
        SamplingParams(**{"max_tokens": 16, name: value})
    assert caught.value.parameter == name
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_a_bad_value_cannot_be_assigned(name: str, value: Any) -> None:
    params = SamplingParams(max_tokens=16)
    before = getattr(params, name)
    with pytest.raises(InvalidParameter, match=rf"^{name} must be .*got"):
        setattr(params, name, value)
    assert getattr(params, name) == before


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_has_a_range(name: str) -> None:
    nonsense: Any = object()
    with pytest.raises(InvalidParameter, match=rf"^{name} must be"):
        SamplingParams(**{name: nonsense})


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"max_tokens": 3, "min_tokens": 4}, "min_tokens"),
        ({"stop": "x", "detokenize": False}, "detokenize"),
        ({"use_beam_search": True, "temperature": 0.5}, "temperature"),
        ({"use_beam_search": True, "top_k": 4}, "top_k"),
        ({"use_beam_search": True, "bad_words": ["x"]}, "bad_words"),
        ({"use_beam_search": True, "allowed_token_ids": [1]}, "allowed_token_ids"),
        ({"use_beam_search": True, "structured_outputs": StructuredOutputsParams(regex="a")}, "structured_outputs"),
    ],
)
def test_what_one_field_forbids_another(given: dict[str, Any], refused: str) -> None:
    with pytest.raises(InvalidParameter, match=rf"^{refused} must be"):
        SamplingParams(**given)
    *rest, last = given
    params = SamplingParams(**{name: given[name] for name in rest})
    with pytest.raises(InvalidParameter, match=rf"^{refused} must be"):
        setattr(params, last, given[last])


def test_what_a_vocabulary_lacks_is_refused_by_name() -> None:
    for name, value in (("stop_token_ids", (V,)), ("allowed_token_ids", (0, V)), ("logit_bias", {V: 1.0})):
        params = SamplingParams(**{name: value})  # type: ignore[arg-type]
        check_vocabulary(params, V + 1)
        with pytest.raises(InvalidParameter, match=rf"^{name} must be .* 0 to {V - 1}, got {V}"):
            check_vocabulary(params, V)


def test_good_values_take_their_normal_form() -> None:
    written: Any = {
        "stop": "x",
        "stop_token_ids": [1],
        "allowed_token_ids": [0, V - 1],
        "top_k": -1,
        "bad_words": ["a"],
        "max_tokens": 16.0,
        "logprobs": np.int64(20),
    }
    params = SamplingParams(n=2, best_of=3, temperature=0, top_p=1, seed=-(2**63), min_tokens=16, **written)
    check_vocabulary(params, V)
    assert (params.stop, params.stop_token_ids, params.allowed_token_ids) == (("x",), (1,), (0, V - 1))
    assert (params.bad_words, params.top_k) == (("a",), 0)
    assert (repr(params.max_tokens), repr(params.logprobs)) == ("16", "20")


def test_assigned_values_take_their_normal_form() -> None:
    params: Any = SamplingParams()
    params.stop, params.top_k, params.max_tokens = ["x"], -1, None
    assert params == SamplingParams(stop=("x",), max_tokens=None)
    params.max_tokens = 5
    params.stop = None
    assert params == SamplingParams(max_tokens=5)


def test_the_callers_lists_stay_the_callers() -> None:
    bias = {1: 2.0}
    params = SamplingParams(logit_bias=bias)
    bias[2] = 3.0
    assert params.logit_bias == {1: 2.0}
    assert copy.deepcopy(params) == params


@pytest.mark.parametrize("name", FIELDS)
def test_none_is_the_default_of_every_field(name: str) -> None:
    """But for max_tokens, where it is as much as fits."""
    params = SamplingParams(**{name: None})  # type: ignore[arg-type]
    assert params == SamplingParams(**({"max_tokens": None} if name == "max_tokens" else {}))
    assert (params.max_tokens is None) == (name == "max_tokens")


def test_vllms_older_names_and_defaults() -> None:
    written: dict[str, Any] = {
        "n": 1,
        "best_of": None,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "use_beam_search": False,
        "length_penalty": 1.0,
        "early_stopping": False,
        "stop": None,
        "stop_token_ids": None,
        "ignore_eos": False,
        "max_tokens": 16,
        "logprobs": None,
        "prompt_logprobs": None,
        "skip_special_tokens": True,
    }
    assert SamplingParams(**written) == SamplingParams()


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    wrong: Any = {"temprature": 1.0}
    with pytest.raises(TypeError, match="no parameter 'temprature'; did you mean temperature"):
        SamplingParams(**wrong)
    with pytest.raises(TypeError, match="no parameter 'zzz'; there are n, best_of, "):
        SamplingParams(zzz=1)  # type: ignore[call-arg]
    with pytest.raises(AttributeError, match="temprature"):
        SamplingParams().temprature = 1.0  # type: ignore[attr-defined]


def test_what_crosses_the_socket_is_what_was_sent_and_defaults_are_not_sent() -> None:
    params = SamplingParams(temperature=0.5, stop=("x",), max_tokens=None, logit_bias={3: -1.0})
    encoded = msgspec.msgpack.encode(params)
    assert msgspec.msgpack.decode(encoded, type=SamplingParams) == params
    assert sorted(msgspec.msgpack.decode(encoded)) == ["logit_bias", "max_tokens", "stop", "temperature"]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(SamplingParams())) == {}
    with pytest.raises(msgspec.ValidationError, match="top_p must be"):
        msgspec.msgpack.decode(msgspec.msgpack.encode({"top_p": 2.0}), type=SamplingParams)


def test_numbers_of_numpy_and_torch_are_numbers() -> None:
    params = SamplingParams(
        temperature=np.float32(0.5),  # type: ignore[arg-type]
        stop_token_ids=np.array([3, 4]),  # type: ignore[arg-type]
        allowed_token_ids=torch.tensor([5, 6]),  # type: ignore[arg-type]
    )
    assert params == SamplingParams(temperature=0.5, stop_token_ids=(3, 4), allowed_token_ids=(5, 6))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(params), type=SamplingParams) == params
    for wrong in (
        {"temperature": np.float32("nan")},
        {"top_p": np.array([0.5, 1.0])},
        {"stop_token_ids": [np.array([1, 2])]},
    ):
        with pytest.raises((InvalidParameter, TypeError)):
            SamplingParams(**wrong)


def test_bad_words_are_banned_with_and_without_a_space() -> None:
    vocabulary = {"cat": [1], " cat": [2], "dog": [3, 4], " dog": [5, 6, 7], "eel": [8], " eel": [8]}
    assert bad_word_token_ids(["cat", " dog", "eel"], vocabulary.__getitem__) == [[1], [2], [3, 4], [8]]
