"""Reasoning is told from the answer in whatever pieces it comes, and grammars leave room for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from multiflora_engine.sampling.grammars import GrammarVocabulary
from multiflora_platform.messages.message import Message, MessageFormat
from multiflora_platform.messages.reasoning import (
    REASONING_FORMATS,
    ReasoningFormat,
    ReasoningState,
    state_after,
    with_reasoning,
)
from multiflora_platform.messages.tool_formats import HERMES
from multiflora_platform.messages.tool_readers import make_reader
from multiflora_platform.structured.formats import Structure, const
from multiflora_platform.structured.lark import grammar_of
from multiflora_platform.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.load(Path(__file__).parents[3] / "examples" / "demo" / "base")
VOCABULARY = GrammarVocabulary(TOKENIZER.definition, TOKENIZER.vocab_size, [TOKENIZER.eos_token_id or 0])
QWEN = REASONING_FORMATS["qwen3"]


@pytest.mark.parametrize(
    ("name", "prompt_end", "text", "reasoning", "content"),
    [
        ("deepseek_r1", "<|Assistant|>", "hm</think>yes", "hm", "yes"),
        ("deepseek_r1", "<|Assistant|>", "<think>\nhm\n</think>\n\nyes", "hm\n", "yes"),
        ("deepseek_r1", "<think>\n", "hm, so", "hm, so", None),
        ("deepseek_r1", "<think>\n", "</think>\n\nyes", None, "yes"),
        ("qwen3", "assistant\n", "<think>\nhm\n</think>\n\nyes <think>", "hm\n", "yes <think>"),
        ("qwen3", "assistant\n", "yes", None, "yes"),
        ("qwen3", "assistant\n", "<thi", None, "<thi"),
        ("qwen3", "<think>\n\n</think>\n\n", "yes </think>", None, "yes </think>"),
        ("qwen3", "<think>\n", "hm </thin </think>yes", "hm </thin ", "yes"),
        ("granite", "x", "Here is my thought process: a Here is my response: b", " a ", " b"),
        ("mistral", "x", "[THINK]a[/THINK]b", "a", "b"),
    ],
)
def test_reasoning_and_content(
    name: str, prompt_end: str, text: str, reasoning: str | None, content: str | None
) -> None:
    form = REASONING_FORMATS[name]
    how = MessageFormat(reasoning=(form, state_after(prompt_end, form)))
    assert how.read(text) == Message(reasoning, content)
    for size in (1, 2, 5):
        message, reader = Message(), how.reader()
        for start in range(0, len(text), size):
            for piece in reader.push(text[start : start + size]):
                message.add(piece)
        for piece in reader.flush():
            message.add(piece)
        assert message == Message(reasoning, content)


def test_calls_are_looked_for_in_the_content_alone() -> None:
    call = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    how = MessageFormat((QWEN, ReasoningState.OPEN), lambda: make_reader(HERMES, {"f": {}}, False))
    message = how.read(f"perhaps {call}?</think>\n{call}")
    assert message.reasoning == f"perhaps {call}?"
    assert [each.name for each in message.calls] == ["f"]


@pytest.mark.parametrize(
    ("state", "good", "bad"),
    [
        (ReasoningState.OVER, ["yes"], ["hm</think>yes"]),
        (ReasoningState.OPEN, ["hm</think>yes", "a\nb</think>\n\nyes"], ["yes", "hm</think>no", "hm"]),
        (ReasoningState.POSSIBLE, ["yes", "<think>hm</think>\nyes"], ["hm</think>yes", "<think>yes"]),
    ],
)
@pytest.mark.parametrize("end", ["</think>", "<|user|>"], ids=["text", "special"])
def test_structure_begins_where_reasoning_ends(
    state: ReasoningState, good: list[str], bad: list[str], end: str
) -> None:
    form = ReasoningFormat("<think>", end)
    grammar = grammar_of(
        Structure(with_reasoning(const("yes"), form, state)), TOKENIZER.special_ids_by_text(TOKENIZER.vocab_size)
    )
    for texts, expected in ((good, True), (bad, False)):
        for text in texts:
            matcher = VOCABULARY.matcher(grammar)
            ids = TOKENIZER.encode(text.replace("</think>", end), False)
            whole = matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()
            assert whole is expected, text
