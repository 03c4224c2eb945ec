"""An eval that cannot be run says what is wrong with its text, before the engine hears of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.platform.gateway.house import House

from multiflora_platform.auth.secret import Secret
from multiflora_platform.gateway.background.evaluation import EvalAnswers
from multiflora_platform.registry.schemas.version_metadata import Eval
from multiflora_platform.web.problems import InvalidRequest


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"prompt": "a<|assistant|>b"}, "prompt"), ({"messages": [{"role": "user", "content": "Hi"}]}, "messages")],
)
async def test_a_text_whose_token_the_model_lacks_is_blamed_on_the_text(
    house: House, fields: dict[str, Any], param: str
) -> None:
    model = house.services.model
    evals = EvalAnswers(house.services.engine, replace(model, vocab_size=model.vocab_size - 1), Secret(b"secret"))
    with pytest.raises(InvalidRequest, match=rf"{param} holds '<\|assistant\|>', token {model.vocab_size - 1} of"):
        await evals.answer("d" * 64, Eval(**fields, max_tokens=4))
    assert not house.engine.requests
    whole = EvalAnswers(house.services.engine, model, Secret(b"secret"))
    assert await whole.answer("d" * 64, Eval(**fields, max_tokens=5)) == house.engine.reply[:5]
    assert [request.background for request in house.engine.requests] == [True]
