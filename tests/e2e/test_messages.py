"""Anthropic's Messages API on real servers: a call by the demo's adapter, and a coding agent's two turns."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from tests.e2e.conftest import serving
from transformers import LlamaConfig, LlamaForCausalLM

pytestmark = pytest.mark.slow

DEMO_BASE = Path(__file__).parents[2] / "examples" / "demo" / "base"
SYSTEM_TOKENS = 20_000
WEATHER = {"sky": "cloudy", "degrees": 7}


def schema(name: str, **of: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {name: of}, "required": [name], "additionalProperties": False}


def stream(http: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    """The message that the events add up to."""
    text = http.post("/v1/messages?beta=true", json={**body, "stream": True}).raise_for_status().text
    events = [json.loads(frame.partition("data: ")[2]) for frame in text.split("\n\n") if frame]
    assert [events[0]["type"], events[-1]["type"]] == ["message_start", "message_stop"], text[-500:]
    message = events[0]["message"]
    written: dict[int, str] = {}
    for event in events:
        match event["type"]:
            case "content_block_start":
                message["content"].append(event["content_block"])
            case "content_block_delta":
                piece = event["delta"].get("text") or event["delta"].get("partial_json") or ""
                written[event["index"]] = written.get(event["index"], "") + piece
            case "message_delta":
                message.update(event["delta"])
                message["usage"].update(event["usage"])
    for index, block in enumerate(message["content"]):
        block.update({"text": written[index]} if block["type"] == "text" else {"input": json.loads(written[index])})
    return message


def prompt_tokens(message: dict[str, Any]) -> int:
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    return sum(message["usage"][name] for name in names)


def test_the_demo_calls_a_tool_and_answers_from_its_result(demo: Any) -> None:
    tools = [
        {"name": "find_person", "input_schema": schema("name", type="string")},
        {"name": "get_weather", "input_schema": schema("city", type="string")},
    ]
    question = {"role": "user", "content": "What is the weather in Oslo?"}
    body: dict[str, Any] = {"model": "tools", "max_tokens": 60, "temperature": 0, "tools": tools}
    with demo.http() as http:
        message = stream(http, {**body, "messages": [question]})
        (call,) = message["content"]
        assert (call["name"], call["input"], message["stop_reason"]) == ("get_weather", {"city": "Oslo"}, "tool_use")
        whole = http.post("/v1/messages", json={**body, "messages": [question]}).json()
        assert whole["content"] == [{**call, "id": whole["content"][0]["id"]}]
        result = {"type": "tool_result", "tool_use_id": call["id"], "content": json.dumps(WEATHER)}
        history = [question, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
        answer = http.post("/v1/messages", json={**body, "messages": history}).json()
        assert answer["stop_reason"] == "end_turn"
        assert "Oslo" in answer["content"][0]["text"]


@pytest.fixture(scope="module")
def agents_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A model with room for an agent's prompts: one layer of random weights, the demo's tokenizer and template."""
    folder = tmp_path_factory.mktemp("agent-model")
    torch.manual_seed(3)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = LlamaConfig(
        vocab_size=1536,
        num_hidden_layers=1,
        max_position_embeddings=32_768,
        bos_token_id=None,
        eos_token_id=1,
        **sizes,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_BASE / name, folder)
    arguments = (str(folder), "--served-model-name", "coder", "--kv-cache-memory", str(64 << 20))
    with serving(tmp_path_factory.mktemp("agent-data"), *arguments) as server, server.http() as http:
        yield http


def agents_request(messages: list[dict[str, Any]], turn: int) -> dict[str, Any]:
    """30 tools, 20,000 tokens of system prompt with cache marks, and a note to the provider that is always another."""
    marked = {"type": "text", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    note = {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1; cch={turn:05};"}
    rules = [f"Rule {i}: look at product {i * 7} before the order {i * 13} of the shop.\n" for i in range(1000)]
    return {
        "model": "coder",
        "max_tokens": 500,
        "temperature": 0,
        "system": [note, {**marked, "text": "You write code."}, {**marked, "text": "".join(rules)}],
        "tools": [
            {"name": f"tool_{i}", "description": "Edits a file.", "input_schema": schema("path", enum=["a.py", "b.py"])}
            for i in range(30)
        ],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "metadata": {"user_id": "user_1_session_2"},
        "messages": messages,
    }


def test_a_coding_agents_second_turn_reads_the_first_from_the_cache(agents_server: httpx.Client) -> None:
    question = {
        "role": "user",
        "content": [{"type": "text", "text": "Fix the bug.", "cache_control": {"type": "ephemeral"}}],
    }
    body = agents_request([question], turn=1)
    first = stream(agents_server, body)
    assert first["stop_reason"] == "tool_use"
    call = first["content"][-1]
    assert call["type"] == "tool_use"
    assert call["name"] in {tool["name"] for tool in body["tools"]}
    assert call["input"] in ({"path": "a.py"}, {"path": "b.py"})
    assert prompt_tokens(first) > SYSTEM_TOKENS
    assert first["usage"]["cache_read_input_tokens"] == 0
    assert first["usage"]["cache_creation_input_tokens"] > SYSTEM_TOKENS

    result = {"type": "tool_result", "tool_use_id": call["id"], "content": [{"type": "text", "text": "done"}]}
    history = [question, {"role": "assistant", "content": first["content"]}, {"role": "user", "content": [result]}]
    again = agents_request(history, turn=2)
    counted = {name: value for name, value in again.items() if name != "max_tokens"}
    count = agents_server.post("/v1/messages/count_tokens", json=counted).raise_for_status().json()
    second = stream(agents_server, again)
    assert count == {"input_tokens": prompt_tokens(second)}
    assert second["usage"]["cache_read_input_tokens"] > 0.99 * prompt_tokens(first)
