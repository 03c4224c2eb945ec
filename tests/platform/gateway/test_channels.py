"""Answers in harmony's channels: chat, responses and messages, whole and streamed; and what the model is sent."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.platform.gateway.house import House
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers

from multiflora_engine.sampling.grammars import GrammarVocabulary
from multiflora_platform.base_models.opening import open_model
from multiflora_platform.gateway.prompting import answer_format
from multiflora_platform.gateway.prompting.messages import template_messages
from multiflora_platform.messages.harmony import HARMONY_MARKERS, ChannelPlace, place_after
from multiflora_platform.messages.tool_formats import HARMONY, detect
from multiflora_platform.settings import Settings
from multiflora_platform.text.chat_template import ChatTemplates
from multiflora_platform.text.off_loop import INLINE
from multiflora_platform.text.tokenizer import Tokenizer

# In the manner of gpt-oss's: thoughts are kept before calls alone, and a call has one text before it.
TEMPLATE = (
    "<|start|>system<|message|>Reasoning: {{ reasoning_effort | default('medium') }}<|end|>"
    "{% if tools %}<|start|>developer<|message|>"
    "{% for tool in tools %}{{ '// ' + tool.function.description + tool.function.name }}{% endfor %}<|end|>{% endif %}"
    "{% for message in messages %}"
    "{% if message.tool_calls %}"
    "{% if message.content and message.thinking %}{{ raise_exception('both') }}{% endif %}"
    "{% if message.content or message.thinking %}"
    "{{ '<|start|>assistant<|channel|>analysis<|message|>' + (message.content or message.thinking) + '<|end|>' }}"
    "{% endif %}{% set call = message.tool_calls[0].function %}"
    "{{ '<|start|>assistant to=functions.' + call.name + '<|channel|>commentary json<|message|>' }}"
    "{{ call.arguments | tojson }}<|call|>"
    "{% elif message.role == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|end|>' }}"
    "{% else %}{{ '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
SPECIAL = [*HARMONY_MARKERS, "<|endoftext|>"]
PATH = "/v1/chat/completions"
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
ARGUMENTS = '{"city": "Oslo"}'
CALL = f"<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{ARGUMENTS}"
THOUGHT = "<|channel|>analysis<|message|>Rain?<|end|><|start|>assistant"
SAID = f"{THOUGHT}<|channel|>commentary<|message|>I look.<|end|><|start|>assistant{CALL}"
ASKED: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100}


def write_tokenizer(folder: Path, **config: Any) -> None:
    """One token for each byte, and harmony's special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    rust = RustTokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens(SPECIAL)
    rust.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|return|>", **config}), encoding="utf-8")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("harmony")
    write_tokenizer(folder, chat_template=TEMPLATE)
    return Tokenizer.load(folder)


@pytest.fixture(autouse=True)
def _writes_channels(house: House) -> None:
    house.services.groups.default.model = replace(house.services.model, tool_format=detect(TEMPLATE))
    house.engine.reply = SAID


async def ask(house: House, **fields: Any) -> dict[str, Any]:
    response = await house.post(PATH, {**ASKED, **fields})
    assert response.status_code == 200, response.text
    return dict(response.json()["choices"][0])


def prompt(house: House) -> str:
    return house.services.model.tokenizer.decode(house.engine.requests[-1].prompt_token_ids)


async def test_chat(house: House) -> None:
    choice = await ask(house, tools=[WEATHER], max_tokens=150)
    message = choice["message"]
    assert (message["reasoning_content"], message["content"], choice["finish_reason"]) == (
        "Rain?",
        "I look.",
        "tool_calls",
    )
    assert [call["function"] for call in message["tool_calls"]] == [{"name": "weather", "arguments": ARGUMENTS}]
    house.engine.reply = f"{THOUGHT}<|channel|>final<|message|>Sun."
    choice = await ask(house)
    assert (choice["message"]["reasoning_content"], choice["message"]["content"]) == ("Rain?", "Sun.")
    assert choice["finish_reason"] == "stop"
    assert "reasoning_content" not in (await ask(house, include_reasoning=False))["message"]


async def test_a_stream_of_chat(house: House) -> None:
    events = await house.events(PATH, {**ASKED, "tools": [WEATHER], "max_tokens": 150})
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    texts = {key: "".join(delta.get(key) or "" for delta in deltas) for key in ("reasoning_content", "content")}
    assert texts == {"reasoning_content": "Rain?", "content": "I look."}
    calls = [delta["tool_calls"][0] for delta in deltas if delta.get("tool_calls")]
    assert (calls[0]["function"]["name"], calls[0]["index"]) == ("weather", 0)
    assert "".join(call["function"]["arguments"] for call in calls) == ARGUMENTS
    assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
async def test_responses(house: House, stream: bool) -> None:
    tool = {"type": "function", **WEATHER["function"]}  # type: ignore[dict-item]
    body = {"model": "base", "input": "Hi", "tools": [tool], "max_output_tokens": 150, "stream": stream}
    response = await house.post("/v1/responses", body)
    assert response.status_code == 200, response.text
    answer = response.json() if not stream else json.loads(response.text.strip().split("data: ")[-1])["response"]
    thought, message, call = answer["output"]
    assert (thought["type"], thought["content"][0]["text"]) == ("reasoning", "Rain?")
    assert (message["type"], message["content"][0]["text"]) == ("message", "I look.")
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "weather", ARGUMENTS)


@pytest.mark.parametrize("stream", [False, True])
async def test_messages(house: House, stream: bool) -> None:
    tool = {"name": "weather", "input_schema": WEATHER["function"]["parameters"]}  # type: ignore[index]
    thinking = {"type": "enabled", "budget_tokens": 1024}
    response = await house.post(
        "/v1/messages", {**ASKED, "tools": [tool], "max_tokens": 150, "thinking": thinking, "stream": stream}
    )
    assert response.status_code == 200, response.text
    if stream:
        for kind in ("thinking_delta", "text_delta", "input_json_delta"):
            assert kind in response.text
        assert '"stop_reason":"tool_use"' in response.text
        return
    thought, text, call = response.json()["content"]
    assert (thought["thinking"], text["text"], call["input"]) == ("Rain?", "I look.", {"city": "Oslo"})
    assert response.json()["stop_reason"] == "tool_use"


async def test_wherever_the_answer_is_cut_off_it_is_read(house: House) -> None:
    house.engine.reply = f"{THOUGHT}<|channel|>final<|message|>Sun."
    for length in range(1, 45, 3):
        message = (await ask(house, max_tokens=length))["message"]
        assert "Rain?".startswith(message.get("reasoning_content") or ""), length
        assert "Sun.".startswith(message["content"]), (length, message)


@pytest.mark.parametrize("reply", ["Sun.", "<|channel|>final Sun.", "<|message|>Sun.", "<|end|>Sun.", f"{THOUGHT}Sun."])
async def test_a_malformed_answer_is_text(house: House, reply: str) -> None:
    house.engine.reply = reply
    assert (await ask(house))["message"]["content"].strip() == "Sun."


async def test_the_next_turn(house: House) -> None:
    """Our own answers can be sent back: what was said before a call stands behind the thought."""
    message = (await ask(house, tools=[WEATHER], max_tokens=150))["message"]
    house.engine.reply = "<|channel|>final<|message|>Sun."
    said = [
        *ASKED["messages"],
        message,
        {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "12"},
    ]
    await ask(house, messages=said, tools=[WEATHER], max_tokens=20)
    assert prompt(house).endswith(
        "<|start|>user<|message|>Hi<|end|><|start|>assistant<|channel|>analysis<|message|>Rain?\nI look.<|end|>"
        f"<|start|>assistant to=functions.weather<|channel|>commentary json<|message|>{ARGUMENTS}<|call|>"
        "<|start|>tool<|message|>12<|end|><|start|>assistant"
    )
    said = [*ASKED["messages"], {"role": "assistant", "content": "Sun.", "reasoning_content": "Rain?"}]
    await ask(house, messages=[*said, *ASKED["messages"]])
    assert "Rain?" not in prompt(house)
    assert "<|channel|>final<|message|>Sun.<|end|>" in prompt(house)


async def test_a_message_goes_on(house: House) -> None:
    house.engine.reply = " is out."
    said = [*ASKED["messages"], {"role": "assistant", "content": "The sun"}]
    choice = await ask(house, messages=said, continue_final_message=True, add_generation_prompt=False)
    assert prompt(house).endswith("<|channel|>final<|message|>The sun")
    assert choice["message"]["content"] == " is out."


CONTINUED: dict[str, Any] = {
    "messages": [*ASKED["messages"], {"role": "assistant", "content": "The sun"}],
    "continue_final_message": True,
    "add_generation_prompt": False,
}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_the_client_began_goes_on_as_text(house: House, stream: bool) -> None:
    house.engine.reply = '"Oslo"}<|call|>'
    begun = "Look.<|end|><|start|>assistant<|channel|>commentary to=functions.weather<|message|>{"
    said = [*ASKED["messages"], {"role": "assistant", "content": begun}]
    body = {**ASKED, **CONTINUED, "messages": said, "tools": [WEATHER], "stream": stream}
    if not stream:
        response = await house.post(PATH, body)
        assert response.status_code == 200, response.text
        (choice,) = response.json()["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ('"Oslo"}', "stop")
        return
    deltas = [choice["delta"] for event in (await house.events(PATH, body))[:-1] for choice in event["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == '"Oslo"}'
    assert not any(delta.get("tool_calls") for delta in deltas)


async def test_where_the_answers_go_on_is_read_once_and_beside_the_event_loop(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def watched(prompt_end: str) -> ChannelPlace:
        threads.append(threading.current_thread())
        return place_after(prompt_end)

    monkeypatch.setattr(answer_format, "place_after", watched)
    house.engine.reply = " is out."
    body = {**ASKED, **CONTINUED, "max_tokens": 10, "n": 3, "stream": True, "metadata": {"more": "x" * INLINE}}
    events = (await house.events(PATH, body))[:-1]
    assert {choice["index"] for event in events for choice in event["choices"]} == {0, 1, 2}
    assert len(threads) == 1
    assert threading.current_thread() not in threads


STRICT = {"type": "function", "function": {**WEATHER["function"], "strict": True}}  # type: ignore[dict-item]
NAMED = {"type": "function", "function": {"name": "weather"}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [WEATHER], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": NAMED}, "tool_choice"),
        ({"tools": [STRICT]}, "tools"),
    ],
)
async def test_a_call_is_not_demanded_of_a_message_that_goes_on(
    house: House, fields: dict[str, Any], param: str
) -> None:
    response = await house.post(PATH, {**ASKED, **CONTINUED, **fields})
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    for free in ({"tools": [WEATHER]}, {"tools": [STRICT], "tool_choice": "none"}):
        await ask(house, **CONTINUED, **free)


async def test_a_prefill_of_messages_demands_no_call_either(house: House) -> None:
    tool = {"name": "weather", "input_schema": WEATHER["function"]["parameters"]}  # type: ignore[index]
    body = {**ASKED, "messages": CONTINUED["messages"], "tools": [tool], "tool_choice": {"type": "any"}}
    response = await house.post("/v1/messages", body)
    assert response.status_code == 400
    assert "tool_choice asks for a call" in response.json()["error"]["message"]


async def test_parts_before_a_call_go_behind_the_thought(house: House) -> None:
    def written_by(source: str, content: Any) -> Any:
        called = {"type": "function", "function": {"name": "weather", "arguments": "{}"}}
        said = {"role": "assistant", "content": content, "reasoning_content": "Rain?", "tool_calls": [called]}
        template = ChatTemplates({"default": source}).pick(None)
        return template_messages([said], template, in_channels=True)[0]

    looped = "{% for part in messages[0].content %}{% endfor %}"
    parts = [{"type": "text", "text": "I look."}, {"type": "text", "text": "Now."}]
    for source in (TEMPLATE, looped):
        assert written_by(source, parts)["reasoning_content"] == "Rain?\nI look.\nNow."
        empty = written_by(source, [{"type": "text", "text": ""}])
        assert (empty["reasoning_content"], empty.get("content") or "") == ("Rain?", "")


async def test_what_the_operator_says_holds_for_the_prompt_too(house: House) -> None:
    """Of a template that does not show its channels: a thought and a function without a description would fail."""
    source = TEMPLATE.replace("<|channel|>analysis<|message|>", "<|channel|>analysis' + '<|message|>")
    assert detect(source) is not HARMONY
    model = house.services.model
    definition = RustTokenizer.from_str(model.tokenizer.definition)
    before = model.tokenizer
    tokenizer = Tokenizer(definition, before.config, before.special_tokens, ChatTemplates({"default": source}))
    called = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
    said = {"role": "assistant", "content": "I look.", "reasoning_content": "Rain?", "tool_calls": [called]}
    house.services.groups.default.model = replace(model, tokenizer=tokenizer, tool_format=HARMONY)
    await ask(house, messages=[*ASKED["messages"], said], tools=[WEATHER], max_tokens=20)
    assert "<|channel|>analysis<|message|>Rain?\nI look.<|end|>" in prompt(house)
    response = await house.post("/tokenize", {"messages": [*ASKED["messages"], said], "tools": [WEATHER]})
    assert response.json()["tokens"] == house.engine.requests[-1].prompt_token_ids


async def test_effort_reaches_the_template(house: House) -> None:
    await ask(house, reasoning_effort="high")
    assert prompt(house).startswith("<|start|>system<|message|>Reasoning: high<|end|>")
    await ask(house, reasoning_effort="high", chat_template_kwargs={"reasoning_effort": "low"})
    assert "Reasoning: low" in prompt(house)
    await house.post("/v1/responses", {"model": "base", "input": "Hi", "reasoning": {"effort": "low"}})
    assert "Reasoning: low" in prompt(house)
    refused = await house.post("/v1/responses", {"model": "base", "input": "Hi", "reasoning": {"effort": 3}})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "reasoning.effort")


def accepts(house: House, text: str) -> bool:
    tokenizer = house.services.model.tokenizer
    ends = [tokenizer.eos_token_id or 0]
    vocabulary = GrammarVocabulary(tokenizer.definition, tokenizer.vocab_size, ends)
    matcher = vocabulary.matcher(house.engine.requests[-1].grammar or "")
    ids = tokenizer.encode(text, False)
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


async def test_grammars_leave_room_for_channels(house: House) -> None:
    final = "<|channel|>final<|message|>"
    await ask(
        house, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}}
    )
    assert accepts(house, f"{THOUGHT}{final}12")
    assert accepts(house, f"{final}12")
    assert not accepts(house, f"{final}twelve")
    assert not accepts(house, "12")
    await ask(house, tools=[WEATHER], tool_choice="required", max_tokens=150)
    assert accepts(house, CALL)
    assert accepts(house, THOUGHT + CALL)
    assert not accepts(house, f"{THOUGHT}{final}No.")
    assert not accepts(house, CALL.replace("city", "town"))
    await ask(house, tools=[STRICT], max_tokens=150)
    assert accepts(house, THOUGHT + CALL)
    assert accepts(house, f"{THOUGHT}{final}No.")
    assert not accepts(house, CALL.replace("city", "town"))


DEMO = Path(__file__).parents[3] / "examples" / "demo" / "base"


@pytest.mark.parametrize(
    ("template", "settings", "is_harmony"),
    [
        (TEMPLATE, {}, True),
        (TEMPLATE, {"tool_call_parser": "none"}, True),
        ("{{ messages }}", {}, False),
        ("{{ messages }}", {"tool_call_parser": "openai"}, True),
        ("{{ messages }}", {"reasoning_parser": "openai_gptoss"}, True),
    ],
)
def test_the_template_or_the_operator_tells(
    tmp_path: Path, template: str, settings: dict[str, Any], is_harmony: bool
) -> None:
    """And the answer ends at a call, too, whatever generation_config.json says."""
    write_tokenizer(tmp_path, chat_template=template)
    base = open_model(Settings(model=str(DEMO), tokenizer=str(tmp_path), **settings))
    assert (base.served.tool_format is HARMONY) is is_harmony
    ends = base.served.tokenizer.special_ids_of(("<|return|>", "<|call|>"))
    assert len(ends) == 2
    assert ends <= base.served.eos_token_ids
