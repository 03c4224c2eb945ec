"""What a conversation of Anthropic's shape becomes as a chat; what is wrong with one is told with its place."""

from __future__ import annotations

from typing import Any

import pytest
from tests.platform.gateway.house import House

from multiflora_platform.gateway.messages_api.conversation import chat_messages
from multiflora_platform.web.openai_errors import ApiError

HI = {"role": "user", "content": "Hi"}


def text(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def use(id: str = "a", **input: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": "f", "input": input}


def result(id: str = "a", content: Any = "ok", **more: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **more}


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def called(id: str = "a", **arguments: Any) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}}


def test_one_text_reads_the_same_from_a_string_and_from_a_block() -> None:
    marked = text("Hi", cache_control={"type": "ephemeral", "ttl": "5m"})
    assert chat_messages("Be brief.", [HI]) == chat_messages([text("Be brief.")], [user(marked)])


def test_turns_of_one_role_in_a_row_are_one() -> None:
    answer = {"role": "assistant", "content": "Yes"}
    chat = chat_messages(None, [HI, user(text("there"), text("!")), answer, {**answer, "content": "?"}, HI])
    assert [message["role"] for message in chat] == ["user", "assistant", "user"]
    assert chat[0]["content"] == [text("Hi"), text("there"), text("!")]
    assert chat[1]["content"] == [text("Yes"), text("?")]


def test_calls_and_their_results() -> None:
    history = [
        HI,
        assistant(text("Let me see."), use("a", x=1), use("b")),
        user(text("and?"), result("b", [text("one"), text("two")]), result("a", None, is_error=True)),
        assistant(use("a")),
        user(result("a", "gone", is_error=True)),
    ]
    assert chat_messages(None, history) == [
        HI,
        {"role": "assistant", "content": "Let me see.", "tool_calls": [called("a", x=1), called("b")]},
        {"role": "tool", "tool_call_id": "b", "content": "one\ntwo"},
        {"role": "tool", "tool_call_id": "a", "content": "Error: "},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": None, "tool_calls": [called("a")]},
        {"role": "tool", "tool_call_id": "a", "content": "Error: gone"},
    ]


def test_thinking_in_the_history_reaches_the_template() -> None:
    thoughts = {"type": "thinking", "thinking": "Hm.", "signature": "x"}
    hidden = {"type": "redacted_thinking", "data": "xx"}
    [_, message, _] = chat_messages(None, [HI, assistant(thoughts, hidden, text("Yes")), HI])
    assert message == {"role": "assistant", "content": "Yes", "reasoning_content": "Hm."}


def test_a_note_to_the_provider_is_not_part_of_the_prompt() -> None:
    """It is another one with each request."""
    note = "x-anthropic-billing-header: cc_version=2; cch=1f2e3;"
    assert chat_messages([text(note), text("Be brief.")], [HI]) == chat_messages("Be brief.", [HI])
    assert chat_messages(f"{note}\nBe brief.", [HI]) == chat_messages("Be brief.", [HI])
    assert chat_messages(note, [HI]) == [HI]


@pytest.mark.parametrize("content", ["", [], [{"type": "text", "text": ""}]], ids=str)
def test_an_earlier_answer_may_have_been_empty(content: Any) -> None:
    """As this server's own are, where the first token ends them, or max_tokens cuts off a call's first marker."""
    empty = {"role": "assistant", "content": content}
    assert chat_messages(None, [HI, empty, HI]) == [HI, {"role": "assistant", "content": ""}, HI]
    assert chat_messages(None, [HI, empty, assistant(text("Yes")), HI])[1:2] == [
        {"role": "assistant", "content": "Yes"}
    ]


@pytest.mark.parametrize("content", ["", [], [{"type": "text", "text": ""}]], ids=str)
def test_an_empty_last_answer_is_none(content: Any) -> None:
    empty = {"role": "assistant", "content": content}
    for count in (1, 2, 3):
        assert chat_messages(None, [HI, *[empty] * count]) == [HI]
    continued = {"role": "assistant", "content": "Ye"}
    assert chat_messages(None, [HI, empty, continued, empty]) == [HI, continued]
    with pytest.raises(ApiError) as error:
        chat_messages(None, [empty, empty])
    assert error.value.param == "messages"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": ""}], "messages[0].content"),
        ([{"role": "user"}], "messages[0].content"),
        ([HI, assistant(text("a")), user(text(""))], "messages[2].content[0].text"),
        ([user(text(""))], "messages[0].content[0].text"),
        ([user(text("a"), text(""))], "messages[0].content[1].text"),
        ([HI, {"role": "system", "content": ""}], "messages[1].content"),
        ([HI, assistant(use("a")), user(result("a", [text("")]))], "messages[2].content[0].content[0].text"),
        ([{"role": "tool", "content": "x"}], "messages[0].role"),
        ([{"role": ["user"], "content": "x"}], "messages[0].role"),
        ([HI, user({"type": "image", "source": {}})], "messages[1].content[0].type"),
        ([user({"type": "document", "source": {}})], "messages[0].content[0].type"),
        ([user(use())], "messages[0].content[0].type"),
        ([HI, assistant(result())], "messages[1].content[0].type"),
        ([user({"type": "text"})], "messages[0].content[0]"),
        ([user({"type": "text", "text": 5})], "messages[0].content[0].text"),
        ([user({"type": 5})], "messages[0].content[0]"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
        ([user(result())], "messages[0].content[0].tool_use_id"),
        ([HI, assistant(use("a")), user(result("b"))], "messages[2].content[0].tool_use_id"),
        ([HI, assistant(use("a")), user(result("a"), result("a"))], "messages[2].content[1].tool_use_id"),
        ([HI, assistant(use("a")), user(result("a", [{"type": "image"}]))], "messages[2].content[0].content[0].type"),
        ([HI, assistant(use("a")), HI, assistant(text("x")), user(result())], "messages[1].content[0]"),
        ([HI, assistant(use("a"))], "messages[1].content[0]"),
        ([HI, assistant(use("a"), use("a"))], "messages[1].content[1].id"),
        ([HI, assistant(text("x\n"))], "messages[1].content[0]"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(messages: list[dict[str, Any]], param: str) -> None:
    with pytest.raises(ApiError) as error:
        chat_messages(None, messages)
    assert error.value.param == param
    assert param in error.value.message


@pytest.mark.parametrize("input", [None, "", '{"city": "Os', [], 42])
async def test_a_call_whose_input_is_no_object_goes_on(house: House, input: Any) -> None:
    """A client that keeps a call which max_tokens cut may make anything of its input."""
    messages = [HI, assistant(text("So:"), {**use(), "input": input}), user(result())]
    response = await house.post("/v1/messages", {"model": "sql", "max_tokens": 9, "messages": messages})
    assert response.status_code == 200, response.text
    assert chat_messages(None, messages)[1]["tool_calls"] == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": input}}
    ]


async def test_a_last_answer_is_continued(house: House) -> None:
    body = {"model": "sql", "max_tokens": 9, "messages": [HI, {"role": "assistant", "content": "The best is ("}]}
    answer = (await house.post("/v1/messages", body)).json()
    prompt = house.services.model.tokenizer.decode(house.engine.requests[-1].prompt_token_ids)
    assert prompt == "<|user|>Hi<|end|><|assistant|>The best is ("
    assert not answer["content"][0]["text"].startswith("The best")
