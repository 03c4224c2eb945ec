"""Options of an engine in a Python program: vLLM's names and ours, what is told of each, what is refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from multiflora import AsyncEngineArgs, EngineArgs


def test_options_become_the_engines_under_either_name() -> None:
    args = AsyncEngineArgs("m", max_model_len="2k", kv_cache_memory_bytes=1 << 20, dtype="half", num_threads=2)
    expected = {"max_model_len": 2000, "kv_cache_memory": 1 << 20, "dtype": "float16", "num_threads": 2}
    assert args.engine_options == expected
    assert EngineArgs(model="m", kv_cache_memory=5).engine_options == {"kv_cache_memory": 5}


def test_prompt_lookup_has_vllms_object_and_names_of_its_own() -> None:
    given = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3, "prompt_lookup_min": 2}
    sizes = {"num_speculative_tokens": 4, "prompt_lookup_max": 3, "prompt_lookup_min": 2}
    assert EngineArgs("m", speculative_config=given).engine_options == {"enable_prompt_lookup": True, **sizes}
    assert EngineArgs("m", enable_prompt_lookup=True).engine_options == {"enable_prompt_lookup": True}
    with pytest.raises(ValueError, match=r"speculative_config: method 'eagle': .* give ngram"):
        EngineArgs("m", speculative_config={"method": "eagle", "model": "x"})


def test_what_the_guides_give_is_taken_and_what_has_no_effect_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        args = EngineArgs(
            "m",
            tokenizer_mode="auto",
            trust_remote_code=True,
            tensor_parallel_size=1,
            dtype="auto",
            quantization=None,
            gpu_memory_utilization=0.9,
            max_model_len=None,
            seed=0,
            download_dir=None,
            load_format="auto",
            revision=None,
        )
    given = {"dtype": "auto", "gpu_memory_utilization": 0.9, "seed": 0}
    assert args.engine_options == given | {"tensor_parallel_size": 1}
    assert ["trust_remote_code has no effect" in message for message in caplog.messages] == [True]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"gpu_memory_utilisation": 0.9}, TypeError, "AsyncEngineArgs has no option .*did you mean 'gpu_memory_util"),
        ({"port": 8000}, TypeError, "has no option 'port'"),
        ({"gpu_memory_utilization": 2}, ValueError, "gpu_memory_utilization: .*less than or equal to 1 .got 2"),
        ({"max_model_len": "long"}, ValueError, "max_model_len"),
        ({"dtype": "int3"}, ValueError, "dtype"),
        ({"decode_context_parallel_size": 2}, ValueError, "ranks divide layers, not contexts; leave it at 1"),
        ({"model_impl": "transformers"}, ValueError, "models are built in; leave it at auto"),
    ],
)
def test_what_cannot_be_is_refused_with_the_next_step(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        AsyncEngineArgs("m", **options)
