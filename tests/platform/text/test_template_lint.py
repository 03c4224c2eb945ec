"""What chat templates do to prompts that should begin with one another, and what they are told of the time."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from multiflora_platform.text.chat_template import ChatOptions, ChatTemplates
from multiflora_platform.text.template_dates import DateChoice
from multiflora_platform.text.template_lint import TemplateFinding, lint, template_checks

TURN = "<|{{ message.role }}|>{{ message.content or '' }}{{ message.tool_calls or '' }}<|end|>"
CLEAN = f"{{% for message in messages %}}{TURN}{{% endfor %}}{{% if add_generation_prompt %}}<|assistant|>{{% endif %}}"
DATED = "Today is {{ strftime_now('%d %b %Y') }}. " + CLEAN
TIMED = "It is {{ strftime_now('%H:%M') }}. " + CLEAN
# Of all but the last turn's answer it leaves out reasoning, and behind the last it writes an empty one, as Qwen3's.
FORGETFUL = """{%- for message in messages %}<|{{ message.role }}|>
{%- if message.role == 'assistant' and loop.last %}<think>{{ message.reasoning_content or '' }}</think>{% endif %}
{{- message.content or '' }}{{ message.tool_calls or '' }}<|end|>{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""
KEEPS = FORGETFUL.replace(" and loop.last", " and message.reasoning_content")
COUNTS = "{{ messages | length }} messages. " + CLEAN
OPENS = CLEAN.replace("<|assistant|>", "<|assistant|><think>")
REFUSES = "{{ raise_exception('no') }}"


def findings(template: str, date: DateChoice = "now") -> list[TemplateFinding]:
    return lint(ChatTemplates({"default": template}, ChatOptions(date=date)), {})


@pytest.mark.parametrize("template", [CLEAN, KEEPS, REFUSES])
def test_templates_that_only_add_are_not_blamed(template: str) -> None:
    assert findings(template) == []
    (row,) = template_checks(ChatTemplates({"default": template}), findings(template))
    assert row["state"] == "ok"


@pytest.mark.parametrize(("template", "unit"), [(DATED, "day"), (TIMED, "minute")])
def test_a_date_is_found_with_how_often_it_changes(template: str, unit: str) -> None:
    (finding,) = findings(template)
    assert finding.kind == "template_date"
    assert template[: finding.position].startswith(("Today is ", "It is ")[template is TIMED])
    assert f"each {unit}" in finding.found
    assert "--template-date" in finding.advice
    assert ("utc-day" in finding.advice) == (unit != "day"), "that changes as often"


def test_the_operators_date_changes_once_a_day_or_never() -> None:
    (finding,) = findings(TIMED.replace("%H:%M", "%d %H:%M"), "utc-day")
    assert "each day" in finding.found
    assert finding.advice == "--template-date fixed never changes it."
    assert findings(TIMED, "utc-day") == findings(DATED, "fixed") == []


@pytest.mark.parametrize(("template", "kind"), [(FORGETFUL, "template_reasoning"), (COUNTS, "template_history")])
def test_history_that_is_written_otherwise_is_found_where_it_parts(template: str, kind: str) -> None:
    (finding,) = findings(template)
    assert finding.kind == kind
    if kind == "template_reasoning":
        assert "First thoughts" in finding.example
        assert "reasoning" in finding.found
    else:
        assert finding.position == 0
    (row,) = template_checks(ChatTemplates({"default": template}), findings(template))
    assert (row["state"], row["found"]) == ("warning", finding.found)


def test_what_stands_before_an_answer_alone_is_found() -> None:
    (finding,) = findings(OPENS)
    assert finding.kind == "template_history"
    assert finding.example.startswith("'<think>' -> ")


def test_what_a_template_is_told_of_the_time() -> None:
    moment = datetime(2026, 11, 30, 12, 34, tzinfo=UTC)
    told = {}
    for date in ("now", "utc-day", "fixed"):
        templates = ChatTemplates({"default": "{{ strftime_now('%Y-%m-%d %H:%M') }}"}, ChatOptions(date=date))
        told[date] = templates.with_clock(lambda: moment).render(
            [], tools=None, documents=None, add_generation_prompt=False, continue_final_message=False, variables={}
        )
    assert told == {"now": "2026-11-30 12:34", "utc-day": "2026-11-30 00:00", "fixed": "2024-07-26 00:00"}
