"""A keyword that a call of the public classes has not is told with the one that was perhaps meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from multiflora import LLM, AsyncLLMEngine, BeamSearchParams

LLM_UNMADE, ENGINE_UNMADE = object.__new__(LLM), object.__new__(AsyncLLMEngine)


@pytest.mark.parametrize(
    ("call", "written", "meant"),
    [
        (LLM_UNMADE.generate, "lora_reqest", "generate() has no argument 'lora_reqest'; did you mean 'lora_request'?"),
        (LLM_UNMADE.generate_stream, "lora_reqest", "did you mean 'lora_request'?"),
        (LLM_UNMADE.chat, "sampling_parms", "did you mean 'sampling_params'?"),
        (LLM_UNMADE.beam_search, "parms", "did you mean 'params'?"),
        (LLM_UNMADE.embed, "normalise", "did you mean 'normalize'?"),
        (LLM_UNMADE.encode, "poolingtask", "did you mean 'pooling_task'?"),
        (LLM_UNMADE.score, "use_tdqm", "did you mean 'use_tqdm'?"),
        (ENGINE_UNMADE.generate, "requestid", "did you mean 'request_id'?"),
        (ENGINE_UNMADE.encode, "poolingparams", "did you mean 'pooling_params'?"),
        (BeamSearchParams, "beam_widht", "BeamSearchParams has no argument 'beam_widht'; did you mean 'beam_width'?"),
    ],
)
def test_an_unknown_keyword_names_the_nearest(call: Callable[..., Any], written: str, meant: str) -> None:
    given = () if call is BeamSearchParams else ("x",)
    with pytest.raises(TypeError) as raised:
        call(*given, **{written: 1})
    assert str(raised.value).endswith(meant)


def test_one_that_is_near_none_is_named_alone() -> None:
    with pytest.raises(TypeError) as raised:
        LLM_UNMADE.generate("x", zzz=1)  # type: ignore[call-overload]
    assert str(raised.value) == "generate() has no argument 'zzz'"
