"""Whether a chat template lets a conversation's prompts begin with one another, which is what a prefix cache needs.

Made-up conversations are rendered turn by turn, and one of them at other times. Knows no tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from multiflora_platform.text.chat_template import ChatTemplates
from multiflora_platform.text.common_beginning import num_alike
from multiflora_platform.text.errors import ChatTemplateError

Message = dict[str, Any]

_TOOLS = [{"type": "function", "function": {"name": "look_up", "description": "Looks it up.", "parameters": {}}}]
_CALL = {"id": "call00001", "type": "function", "function": {"name": "look_up", "arguments": {"word": "heron"}}}
_SYSTEM = {"role": "system", "content": "You answer briefly."}
_CONVERSATIONS: dict[str, list[Message]] = {
    "plain": [
        _SYSTEM,
        {"role": "user", "content": "First question?"},
        {"role": "assistant", "content": "First answer."},
        {"role": "user", "content": "Second question?"},
        {"role": "assistant", "content": "Second answer."},
        {"role": "user", "content": "Third question?"},
    ],
    "tools": [
        _SYSTEM,
        {"role": "user", "content": "First question?"},
        {"role": "assistant", "content": "", "tool_calls": [_CALL]},
        {"role": "tool", "tool_call_id": "call00001", "name": "look_up", "content": "It is a bird."},
        {"role": "assistant", "content": "First answer."},
        {"role": "user", "content": "Second question?"},
    ],
    "reasoning": [
        _SYSTEM,
        {"role": "user", "content": "First question?"},
        {"role": "assistant", "content": "First answer.", "reasoning_content": "First thoughts, of some length."},
        {"role": "user", "content": "Second question?"},
        {"role": "assistant", "content": "Second answer.", "reasoning_content": "Second thoughts, of some length."},
        {"role": "user", "content": "Third question?"},
    ],
}
_NOW = datetime(2026, 11, 30, 12, 34, 56, tzinfo=UTC)
_LATER = {
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
}
_ADVICE = "--template-date utc-day changes it once a day, --template-date fixed never."
_ADVICE_OF_DAYS = "--template-date fixed never changes it."
_SHOWN = 40


class _Clock:
    """What the templates are told of the time."""

    def __init__(self) -> None:
        self.now = _NOW

    def __call__(self) -> datetime:
        return self.now


@dataclass(frozen=True)
class TemplateFinding:
    """kind: template_date, template_reasoning or template_history. position: in the prompt, the first character that
    differs. example: what stands there in the earlier prompt and in the later one."""

    kind: str
    position: int
    found: str
    advice: str
    example: str


def lint(templates: ChatTemplates, variables: Mapping[str, Any]) -> list[TemplateFinding]:
    """At most one of each kind. variables: of all prompts, such as special tokens. A conversation that the template
    refuses tells nothing."""
    if templates.is_empty:
        return []
    clock = _Clock()
    templates = templates.with_clock(clock)
    return [*_dates(templates, clock, variables), *_histories(templates, variables)]


def template_checks(templates: ChatTemplates, findings: Sequence[TemplateFinding]) -> Iterator[dict[str, str]]:
    """What `lint` found as rows of `multiflora doctor`; one that says so where it found nothing."""
    for finding in findings:
        yield {"state": "warning", "check": "chat template", "found": finding.found, "advice": finding.advice}
    if not findings:
        found = "prompts of a conversation begin with one another" if not templates.is_empty else "none"
        yield {"state": "ok", "check": "chat template", "found": found, "advice": ""}


def _dates(templates: ChatTemplates, clock: _Clock, variables: Mapping[str, Any]) -> Iterator[TemplateFinding]:
    """clock: the templates'; it is moved."""
    messages = _CONVERSATIONS["plain"][:2]
    before = _render(templates, "plain", messages, variables)
    for unit, later in _LATER.items():
        clock.now = _NOW + later
        after = _render(templates, "plain", messages, variables)
        if before is not None and after is not None and before != after:
            at, example = _parting(before, after)
            yield TemplateFinding(
                "template_date",
                at,
                f"the chat template writes a time at character {at}, another one each {unit}: all prompts behind it "
                "are computed again then",
                _ADVICE_OF_DAYS if unit == "day" else _ADVICE,
                example,
            )
            return


def _histories(templates: ChatTemplates, variables: Mapping[str, Any]) -> Iterator[TemplateFinding]:
    for name, conversation in _CONVERSATIONS.items():
        turns = [end for end in range(1, len(conversation) + 1) if conversation[end - 1]["role"] in ("user", "tool")]
        for end, following in itertools.pairwise(turns):
            prompt = _render(templates, name, conversation[:end], variables)
            answered = _render(templates, name, conversation[: following - 1], variables, is_answered=True)
            later = _render(templates, name, conversation[:following], variables)
            if prompt is None or answered is None or later is None:
                continue
            # What the engine has computed by then: the prompt and the answer behind it. Without reasoning a template
            # may write an empty one behind the last answer, which no model has written.
            has_reasoning = name == "reasoning" and answered.startswith(prompt)
            computed = answered if has_reasoning else prompt
            if not later.startswith(computed):
                yield _rewritten(name, conversation[:following], computed, later)
                return


def _rewritten(name: str, conversation: list[Message], earlier: str, later: str) -> TemplateFinding:
    at, example = _parting(earlier, later)
    thoughts = next((one["reasoning_content"] for one in conversation if "reasoning_content" in one), None)
    if thoughts is not None and thoughts in earlier and thoughts not in later:
        return TemplateFinding(
            "template_reasoning",
            at,
            f"the chat template leaves out reasoning of earlier turns: in a conversation ({name}), what was computed "
            f"from character {at} on ({len(earlier) - at} of {len(earlier)}) is computed again in the next turn",
            "Keep reasoning by the template's own option, or count on one answer being computed again in each turn.",
            example,
        )
    return TemplateFinding(
        "template_history",
        at,
        f"the chat template writes earlier turns otherwise than they were asked ({name}): what was computed from "
        f"character {at} on ({len(earlier) - at} of {len(earlier)}) is computed again in the next turn",
        "Give another --chat-template, or count on it.",
        example,
    )


def _render(
    templates: ChatTemplates,
    name: str,
    messages: list[Message],
    variables: Mapping[str, Any],
    *,
    is_answered: bool = False,
) -> str | None:
    try:
        return templates.render(
            messages,
            tools=_TOOLS if name == "tools" else None,
            documents=None,
            add_generation_prompt=not is_answered,
            continue_final_message=False,
            variables=variables,
        )
    except ChatTemplateError:
        return None


def _parting(earlier: str, later: str) -> tuple[int, str]:
    at = num_alike(earlier, later)
    return at, f"{earlier[at : at + _SHOWN]!r} -> {later[at : at + _SHOWN]!r}"
