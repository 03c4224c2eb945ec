"""Bodies that nobody would write: each is answered, or refused in the envelope with a reason; none breaks a server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.platform.gateway.house import House

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
) | st.text(max_size=8)
INTEGERS = st.integers(-2, 300) | st.sampled_from([2**31, 2**63, 2**64])
NUMBERS = st.floats(-3, 3) | st.sampled_from([0, 1e308, -1e308, 1e-300])
TEXTS = st.text(max_size=8)
CALLS = st.lists(st.fixed_dictionaries({"function": st.fixed_dictionaries({"name": TEXTS, "arguments": JSON})}))
PARTS = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}), max_size=2)
ROLES = st.sampled_from(["user", "system", "assistant", "tool", "developer"])
MESSAGE = st.fixed_dictionaries({"role": ROLES}, optional={"content": TEXTS | PARTS, "tool_calls": CALLS, "name": JSON})
IDS = st.sampled_from(["a", "b"])
BLOCK = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "tool_use", "tool_result", "thinking", "redacted_thinking", "image"])},
    optional={
        **dict.fromkeys(("text", "name", "thinking"), TEXTS),
        **dict.fromkeys(("id", "tool_use_id"), IDS),
        "input": st.dictionaries(TEXTS, JSON, max_size=2),
        "content": TEXTS | PARTS | JSON,
        "is_error": st.booleans(),
    },
)
ANTHROPIC_MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": TEXTS | st.lists(BLOCK, max_size=3)}
)
SHARED: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("n", "best_of"), st.integers(-1, 4)),
    **dict.fromkeys(("max_tokens", "seed", "top_k", "min_tokens", "priority", "truncate_prompt_tokens"), INTEGERS),
    **dict.fromkeys(("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty"), NUMBERS),
    **dict.fromkeys(
        ("ignore_eos", "stream", "echo", "speculation", "return_token_ids", "skip_special_tokens"), st.booleans()
    ),
    **dict.fromkeys(("stop_token_ids", "allowed_token_ids"), st.lists(INTEGERS, max_size=3)),
    "logit_bias": st.dictionaries(INTEGERS.map(str), NUMBERS, max_size=2),
    "stop": TEXTS | st.lists(TEXTS, max_size=3),
    "bad_words": st.lists(TEXTS, max_size=2),
    "model": st.sampled_from(["base", "sql", "sql@3", "sql@", "@", "base@1"]) | TEXTS,
    "logprobs": INTEGERS | st.booleans(),
    "prompt_logprobs": INTEGERS,
    "cache_salt": TEXTS,
    "stream_options": JSON,
}
PROMPT = TEXTS | st.lists(TEXTS, max_size=3) | st.lists(INTEGERS, max_size=4) | st.lists(st.lists(INTEGERS, max_size=2))
OWN: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "/v1/completions": {"prompt": PROMPT},
    "/v1/chat/completions": {
        "messages": st.lists(MESSAGE, max_size=3),
        "tools": st.lists(st.dictionaries(TEXTS, JSON, max_size=2), max_size=2),
        "chat_template_kwargs": st.dictionaries(TEXTS | st.just("messages"), JSON, max_size=2),
        "top_logprobs": INTEGERS,
        "continue_final_message": st.booleans(),
    },
    "/v1/messages": {
        "messages": st.lists(ANTHROPIC_MESSAGE, max_size=4),
        "system": TEXTS | st.lists(BLOCK, max_size=2),
        "tools": st.lists(st.dictionaries(st.sampled_from(["name", "type", "input_schema"]), JSON), max_size=2),
        "tool_choice": st.fixed_dictionaries({"type": st.sampled_from(["auto", "any", "tool", "none"]), "name": JSON}),
        "thinking": st.fixed_dictionaries({"type": st.sampled_from(["enabled", "disabled"]), "budget_tokens": JSON}),
        "stop_sequences": st.lists(TEXTS, max_size=3),
        "metadata": st.dictionaries(st.just("user_id"), JSON),
        "output_config": st.dictionaries(st.sampled_from(["format", "effort"]), JSON),
    },
    "/tokenize": {"prompt": TEXTS, "messages": st.lists(MESSAGE, max_size=2), "add_special_tokens": st.booleans()},
    "/detokenize": {"tokens": st.lists(INTEGERS, max_size=4)},
}
GOOD: dict[str, Any] = {
    "model": "sql", "prompt": "Say", "messages": [{"role": "user", "content": "Hi"}], "tokens": [1], "max_tokens": 3,
}  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A good body in which a few fields were replaced by likely values, or by anything."""
    path = draw(st.sampled_from(sorted(OWN)))
    fields = {**SHARED, **OWN[path]}
    body = {name: GOOD[name] for name in ("model", "max_tokens", *OWN[path]) if name in GOOD}
    if path == "/tokenize":
        del body["messages"]
    for name in draw(st.lists(st.sampled_from(sorted(fields)), min_size=1, max_size=3, unique=True)):
        body[name] = draw(fields[name] if draw(st.integers(0, 5)) else JSON)
    return path, body


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=requests())
def test_no_body_breaks_the_gateway(make_house: Callable[..., House], request: tuple[str, dict[str, Any]]) -> None:
    async def send() -> Any:
        house = make_house()
        async with house.http:
            return await house.post(*request)

    response = asyncio.run(send())
    assert response.status_code in (200, 400, 404), (request, response.text)
    if response.status_code != 200:
        error = response.json()["error"]
        assert error["message"]
        assert isinstance(error["type" if request[0] == "/v1/messages" else "code"], str)
    elif response.headers["content-type"].startswith("text/event-stream"):
        end = '{"type":"message_stop"}' if request[0] == "/v1/messages" else "[DONE]"
        assert response.text.endswith(f"data: {end}\n\n"), request
