"""Channels are told apart in whatever pieces the text comes, and what is malformed or cut off loses no text."""

from __future__ import annotations

from random import Random

import pytest

from multiflora_platform.messages import harmony
from multiflora_platform.messages.harmony import HARMONY_MARKERS, HarmonyReader, place_after
from multiflora_platform.messages.markers import MarkerSearch
from multiflora_platform.messages.message import Call, Message, MessageFormat
from multiflora_platform.messages.pieces import Content, Reasoning
from multiflora_platform.messages.tool_formats import HARMONY
from multiflora_platform.messages.tool_readers import make_reader

START = "<|start|>assistant"
THOUGHT = "<|channel|>analysis<|message|>hm<|end|>"
FINAL = "<|channel|>final<|message|>"
CALL = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>"

CASES: list[tuple[str, str | None, str | None, list[tuple[str, str]]]] = [
    (f"{THOUGHT}{START}{FINAL}yes <b> <|return|>", "hm", "yes <b> ", []),
    (f"{FINAL}yes", None, "yes", []),
    (f'{THOUGHT}{START}{CALL}{{"a": "<|"}}<|call|>', "hm", None, [("f", '{"a": "<|"}')]),
    (f"{THOUGHT}{START}<|channel|>commentary<|message|>I look.<|end|>{START}{CALL}{{}}", "hm", "I look.",
     [("f", "{}")]),
    # The recipient in the role's part, before the channel; other types, and none.
    (' to=functions.f<|channel|>commentary json<|message|>{"a": 1}', None, None, [("f", '{"a": 1}')]),
    (f'{THOUGHT}{START} to=functions.f<|channel|>commentary code<|message|>{{"a": 1}}', "hm", None,
     [("f", '{"a": 1}')]),
    ('<|channel|>analysis to=functions.f<|constrain|>json<|message|>{"a": 1}', None, None, [("f", '{"a": 1}')]),
    ("<|channel|>commentary to=functions.new.name<|message|>{}", None, None, [("new.name", "{}")]),
    ("<|channel|>commentary to=f<|message|>{}", None, None, [("f", "{}")]),
    (f"{CALL} ", None, None, [("f", "{}")]),
    # Tools that are not the client's: their text is what the channel says.
    ("<|channel|>analysis to=python code<|message|>1 + 1<|call|>", "1 + 1", None, []),
    ("<|channel|>commentary to=browser.open<|message|>{}<|call|>", None, "{}", []),
    # Several of a kind are parted.
    (f"{THOUGHT}{START}{THOUGHT}{START}{FINAL}a<|end|>\n{START}{FINAL}b", "hm\nhm", "a\nb", []),
    (f'{CALL}{{}}<|call|>{START}{CALL}{{"b": 2}}<|call|>', None, None, [("f", "{}"), ("f", '{"b": 2}')]),
    # No channels at all, as an adapter may have learned it.
    ("Hello, <b>world</b>", None, "Hello, <b>world</b>", []),
    (" to be", None, " to be", []),
    ("to=5 is it", None, "to=5 is it", []),
    ("a", None, "a", []),
    ("to", None, "to", []),
    # Malformed.
    (f"{THOUGHT}{START}yes", "hm", "yes", []),
    (f"{THOUGHT}yes", "hm", "yes", []),
    (f"{THOUGHT} \n", "hm", None, []),
    ("<|channel|>analysis<|message|>hm<|channel|>final<|message|>yes", "hm", "yes", []),
    ("<|channel|>analysis<|message|>hm<|start|>assistant<|channel|>final<|message|>yes", "hm", "yes", []),
    ("<|channel|>analysisWe think", "We think", None, []),
    ("<|channel|>final to=5 is it<|end|>", None, " to=5 is it", []),
    ("<|channel|>final text", None, " text", []),
    ("<|channel|>thoughts<|message|>x", None, "thoughtsx", []),
    ("<|message|>x<|message|>y", None, "xy", []),
    ("<|start|>user<|message|>x", None, "x", []),
    ("<|channel|><|channel|>final<|message|>x", None, "x", []),
    (f"{FINAL}a <| b <|x|> <|constrain|> c", None, "a <| b <|x|> <|constrain|> c", []),
    ('<|channel|>commentary to=functions.f {"a": 1}<|call|>', None, None, [("f", '{"a": 1}')]),
    (f"<|channel|>commentary to=functions.{'a' * 400}", None, f" to=functions.{'a' * 400}", []),
    # Cut off.
    (f'{THOUGHT}{START}{CALL}{{"a": ', "hm", None, [("f", '{"a": ')]),
    (f"{THOUGHT}{START}<|channel|>commentary to=functions.f", "hm", None, []),
    (f"{THOUGHT}{START}<|channel|>fin", "hm", None, []),
    (f"{THOUGHT}<|start|>assis", "hm", None, []),
    ("<|channel|>analysis<|message|>hm <|en", "hm <|en", None, []),
    ("<|channel|>", None, None, []),
    ("", None, None, []),
]  # fmt: skip


def form(names: str = "f", only_one: bool = False, prompt_end: str = START) -> MessageFormat:
    begin = place_after(prompt_end)
    return MessageFormat(tools=lambda: make_reader(HARMONY, {name: {} for name in names}, only_one, begin))


def streamed(how: MessageFormat, *texts: str) -> Message:
    message, reader = Message(), how.reader()
    for text in texts:
        for piece in reader.push(text):
            message.add(piece)
    for piece in reader.flush():
        message.add(piece)
    return message


@pytest.mark.parametrize(("text", "reasoning", "content", "calls"), CASES)
def test_channels(text: str, reasoning: str | None, content: str | None, calls: list[tuple[str, str]]) -> None:
    expected = Message(reasoning, content, [Call(*call) for call in calls])
    how = form()
    assert how.read(text) == expected
    assert streamed(how, *text) == expected
    for at in range(len(text)):
        assert streamed(how, text[:at], text[at:]) == expected, (text[:at], text[at:])


def test_text_goes_out_as_it_comes() -> None:
    reader = form().reader()
    out = [reader.push(character) for character in f"{THOUGHT}{START}{FINAL}yes"]
    assert [piece for pieces in out for piece in pieces] == [Reasoning("h"), Reasoning("m"), *map(Content, "yes")]
    assert out[-3:] == [[Content(character)] for character in "yes"]
    plain = form().reader()
    assert [len(plain.push(character)) for character in "We"] == [1, 1]


def test_without_tools_on_offer_a_call_is_text() -> None:
    assert form("").read(f'{THOUGHT}{START}{CALL}{{"a": 1}}<|call|>') == Message("hm", '{"a": 1}')


def test_one_call_only() -> None:
    text = f'{CALL}{{"a": 1}}<|call|>{START}{CALL}<|call|>{START}{FINAL}done'
    assert form(only_one=True).read(text) == Message(None, "done", [Call("f", '{"a": 1}')])


@pytest.mark.parametrize(
    ("prompt_end", "text", "expected"),
    [
        (f"{START}{FINAL}It is", " so.<|return|>", Message(None, " so.")),
        (f"{START}<|channel|>analysis<|message|>It", f" is.<|end|>{START}{FINAL}So.", Message(" is.", "So.")),
        ("<|start|>user<|message|>Hi<|end|>", f"{START}{FINAL}Hi.", Message(None, "Hi.")),
        ("", f"{THOUGHT}{START}{FINAL}Hi.", Message("hm", "Hi.")),
        # A call that the client began is text, and a call behind it is the answer's first.
        (f'{START}{CALL}{{"a": ', f"1}}<|call|>{START}{CALL}{{}}<|call|>", Message(None, "1}", [Call("f", "{}")])),
        (f"{START}{CALL}", "", Message()),
        (f"{START}<|channel|>analysis to=functions.f<|message|>", "{}", Message("{}", None)),
        (f"{START}<|channel|>commentary to=functions.f", "<|message|>{}", Message(None, None, [Call("f", "{}")])),
        # What the prompt says is not said again, whatever it looks like.
        (f"{START}{FINAL}1 <", " 2", Message(None, " 2")),
        (f"{START}{FINAL}a<|end|>b<|en", f"c<|end|>{START}{FINAL}d", Message(None, "c\nd")),
        ("<|end|>" * 3 + "<|channel|>" * 3 + "analysis<|message|>", "hm", Message("hm", None)),
    ],
)
def test_an_answer_goes_on_where_the_prompt_ends(prompt_end: str, text: str, expected: Message) -> None:
    assert form(prompt_end=prompt_end).read(text) == expected


def test_text_full_of_markers_is_walked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []

    class Search(MarkerSearch):
        def push(self, text: str) -> tuple[str, str | None]:
            searched.append(len(text))
            return super().push(text)

        def split(self, text: str) -> list[tuple[str, str | None]]:
            searched.append(len(text))
            return super().split(text)

    monkeypatch.setattr(harmony, "MarkerSearch", Search)
    text = f"{FINAL}{'<|end|>' * 200}{FINAL}x"
    assert form().read(text) == Message(None, "x")
    assert sum(searched) == len(START) + len(text)


def test_the_prompt_is_read_once_for_all_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    how = form(prompt_end=f"{START}{'<|end|>' * 100}{FINAL}It")
    monkeypatch.setattr(HarmonyReader, "push", lambda *_: pytest.fail("read again"))
    assert [how.reader().flush() for _ in range(3)] == [[], [], []]


def test_whatever_a_model_writes_no_text_is_lost_and_pieces_do_not_matter() -> None:
    words = ["analysis", "final", "commentary", " to=functions.f ", " to=python ", "assistant", "json", "Oslo", " "]
    markers = [f"{marker}json " if marker == "<|constrain|>" else marker for marker in HARMONY_MARKERS]
    for seed in range(150):
        random = Random(seed)
        text = "".join(random.choice(markers + words) for _ in range(random.randint(1, 14)))
        how = form()
        whole = how.read(text)
        out = "".join([whole.reasoning or "", whole.content or "", *(call.arguments for call in whole.calls)])
        assert out.count("Oslo") == text.count("Oslo"), text
        assert streamed(how, *text) == whole, text
        at = random.randint(0, len(text))
        assert streamed(how, text[:at], text[at:]) == whole, text
