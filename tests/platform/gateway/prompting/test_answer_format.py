"""Where a format's markers are special tokens, these stay in the text for its reader; no other special token shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.platform.gateway.house import END, House
from tokenizers import Tokenizer as RustTokenizer

from multiflora_platform.messages.reasoning import REASONING_FORMATS
from multiflora_platform.messages.tool_formats import TOOL_FORMATS
from multiflora_platform.text.tokenizer import Tokenizer

MARKERS = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
# What a model may write that belongs to no format: another special token, and its end token within an answer.
NOISE = "<|user|>"
CALL = f'<tool_call>{NOISE}\n{{"name": "f", "arguments": {{"city": "Os{NOISE}lo"}}}}\n</tool_call>'
REPLY = f"{NOISE}<think>Ra{NOISE}in?</think>\n{NOISE}Let me{NOISE} see.\n{CALL}{NOISE}"
READ = ("Rain?", "Let me see.", '{"city": "Oslo"}')

# (reasoning, content, the call's arguments)
Told = tuple[str, str, str]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"name": "f", "parameters": SCHEMA}
CHAT: tuple[str, dict[str, Any]] = (
    "/v1/chat/completions",
    {"messages": [{"role": "user", "content": "Hi"}], "tools": [{"type": "function", "function": FUNCTION}]},
)
RESPONSES: tuple[str, dict[str, Any]] = ("/v1/responses", {"input": "Hi", "tools": [{"type": "function", **FUNCTION}]})
MESSAGES: tuple[str, dict[str, Any]] = (
    "/v1/messages",
    {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 200,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tools": [{"name": "f", "input_schema": SCHEMA}],
    },
)


def _saved(
    tokenizer: Tokenizer, folder: Path, config: dict[str, Any], special: list[str], plain: list[str]
) -> Tokenizer:
    rust = RustTokenizer.from_str(tokenizer.definition)
    rust.add_special_tokens(special)
    rust.add_tokens(plain)
    folder.mkdir()
    rust.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokenizer.config, **config}), encoding="utf-8")
    return Tokenizer.load(folder)


@pytest.fixture
def speak(house: House, tokenizer: Tokenizer, tmp_path: Path) -> Callable[..., House]:
    """The house with a model that thinks and calls in special tokens."""

    def make(**config: Any) -> House:
        plain = [config["eos_token"]] if "eos_token" in config else []
        marked = _saved(tokenizer, tmp_path / "marked", config, MARKERS, plain)
        model = replace(house.services.model, tokenizer=marked, vocab_size=marked.vocab_size)
        house.services.groups.default.model = replace(
            model, tool_format=TOOL_FORMATS["hermes"], reasoning_format=REASONING_FORMATS["qwen3"]
        )
        house.engine.tokenizer = marked
        house.engine.reply = REPLY
        return house

    return make


async def ask(house: House, api: tuple[str, dict[str, Any]], stream: bool, **fields: Any) -> Told:
    path, body = api
    response = await house.post(path, {"model": "base", "stream": stream, **body, **fields})
    assert response.status_code == 200, response.text
    if not stream:
        return WHOLE[path](response.json())
    lines = [line.removeprefix("data: ") for line in response.text.split("\n") if line.startswith("data: {")]
    told = [STREAMED[path](json.loads(line)) for line in lines]
    return "".join(t[0] for t in told), "".join(t[1] for t in told), "".join(t[2] for t in told)


def _of_chat(message: dict[str, Any]) -> Told:
    calls = "".join(call["function"].get("arguments", "") for call in message.get("tool_calls") or ())
    return message.get("reasoning") or "", message.get("content") or "", calls


def _of_items(items: list[dict[str, Any]]) -> Told:
    parts = {"reasoning": "", "message": "", "function_call": ""}
    for item in items:
        parts[item["type"]] += item.get("arguments") or item["content"][0]["text"]
    return parts["reasoning"], parts["message"], parts["function_call"]


def _of_blocks(blocks: list[dict[str, Any]]) -> Told:
    found = {block["type"]: block for block in blocks}
    return found["thinking"]["thinking"], found["text"]["text"], json.dumps(found["tool_use"]["input"])


def _of_response_event(event: dict[str, Any]) -> Told:
    kinds = ("reasoning_text", "output_text", "function_call_arguments")
    thought, text, arguments = (event["delta"] if event["type"] == f"response.{kind}.delta" else "" for kind in kinds)
    return thought, text, arguments


def _of_message_event(event: dict[str, Any]) -> Told:
    delta = event.get("delta", {})
    return delta.get("thinking", ""), delta.get("text", ""), delta.get("partial_json", "")


WHOLE: dict[str, Callable[[Any], Told]] = {
    CHAT[0]: lambda answer: _of_chat(answer["choices"][0]["message"]),
    RESPONSES[0]: lambda answer: _of_items(answer["output"]),
    MESSAGES[0]: lambda answer: _of_blocks(answer["content"]),
}
STREAMED: dict[str, Callable[[Any], Told]] = {
    CHAT[0]: lambda chunk: _of_chat(chunk["choices"][0]["delta"]),
    RESPONSES[0]: _of_response_event,
    MESSAGES[0]: _of_message_event,
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", [CHAT, RESPONSES, MESSAGES], ids=lambda api: api[0])
async def test_only_a_formats_own_special_tokens_reach_its_reader(
    speak: Callable[..., House], api: tuple[str, dict[str, Any]], stream: bool
) -> None:
    assert await ask(speak(), api, stream) == READ


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("api", [CHAT, RESPONSES, MESSAGES], ids=lambda api: api[0])
async def test_an_end_token_that_is_not_special_never_ends_a_text(
    speak: Callable[..., House], api: tuple[str, dict[str, Any]], stream: bool
) -> None:
    house = speak(eos_token="</s>")
    assert house.engine.tokenizer.eos_token_id not in house.engine.tokenizer.special_ids
    assert await ask(house, api, stream) == READ


@pytest.mark.parametrize("stream", [False, True])
async def test_end_tokens_that_do_not_end_an_answer_are_skipped(speak: Callable[..., House], stream: bool) -> None:
    house = speak()
    house.engine.reply = REPLY.replace(NOISE, END)
    length = len(house.engine.tokenizer.encode(house.engine.reply, False))
    assert await ask(house, CHAT, stream, ignore_eos=True, max_tokens=length) == READ


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_asks_for_special_tokens_gets_all(speak: Callable[..., House], stream: bool) -> None:
    house = speak()
    house.engine.reply = f"<think>Ra{NOISE}in?</think>Let me see.{NOISE}"
    shown = (f"Ra{NOISE}in?", f"Let me see.{NOISE}", "")
    assert await ask(house, CHAT, stream, skip_special_tokens=False) == shown
    ended = {"skip_special_tokens": False, "include_stop_str_in_output": True}
    assert await ask(house, CHAT, stream, **ended) == (shown[0], shown[1] + END, "")
    # As for plain text: a stop is kept, and then skipped for being special.
    assert await ask(house, CHAT, stream, include_stop_str_in_output=True) == ("Rain?", "Let me see.", "")
    assert await ask(house, CHAT, stream, skip_special_tokens=True) == ("Rain?", "Let me see.", "")


@pytest.mark.parametrize("stream", [False, True])
async def test_markers_of_a_format_that_nothing_reads_are_skipped(speak: Callable[..., House], stream: bool) -> None:
    house = speak()
    house.engine.reply = "<think>Rain?</think>Let <tool_call>me see.</tool_call>"
    assert await ask(house, CHAT, stream, tools=None) == ("Rain?", "Let me see.", "")
