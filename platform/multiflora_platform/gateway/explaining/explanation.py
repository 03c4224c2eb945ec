"""Names why the cache has no more of a prompt, from what is certain: keys and blocks first, then what differs.

Generates nothing. A cause that cannot be told for sure is not named: then the prompt has `diverged`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from multiflora_platform.gateway.explaining.conversation import Conversation
from multiflora_platform.gateway.explaining.question import Question
from multiflora_platform.insight.changing_values import kind_of_value
from multiflora_platform.insight.views.misses import CacheExplanation, FirstDifference
from multiflora_platform.messages.harmony import CHANNEL
from multiflora_platform.text.common_beginning import num_alike

_SHOWN = 40
"""Characters on each side of a difference."""
_READ = 120
"""Tokens, and characters, that are looked at on each side."""
_NOTHING_LOST = ("none", "too_short", "first_seen")
_ADVICE = {
    "none": "Nothing is lost: the cache has all that it can have.",
    "too_short": "The prompt has no whole block before its last token; there is nothing to be cached.",
    "first_seen": "No earlier prompt of yours begins like this one; the next one finds it.",
    "timestamp": "A time stands there. Put it behind the long, common part, or give the day alone.",
    "nonce": "An id that is new in each request stands there. Leave it out of the prompt, or put it at the end.",
    "counter": "A number that grows stands there. Leave it out of the prompt, or put it behind the common part.",
    "tools_changed": "Other tools were sent. Send the same ones, and limit what may be called with tool_choice.",
    "tools_reordered": "The same tools came in another order, or their keys did. Send them sorted.",
    "format_changed": "The template got other options (chat_template_kwargs, documents). Keep them equal.",
    "history_edited": "An earlier message was changed. Add to a conversation at its end.",
    "reasoning_dropped": "The chat template leaves out reasoning of earlier turns. Send it without, or keep it by the "
    "template's own option.",
    "adapter_version": "The alias has moved to another version, whose KV is its own. Warm it before the alias moves.",
    "other_adapter": "The beginning is cached for another adapter, whose KV differs. Warm it for this one.",
    "other_salt": "The beginning is cached under another cache_salt. Send the same one.",
    "other_tenant": "The earlier prompt is another tenant's; tenants never share.",
    "evicted": "It was cached, and gave way to others. Pin it, or give the cache more blocks.",
    "engine_restarted": "It was cached until the engine restarted. Warm it after a start.",
    "other_replica": "Another engine computed it, and each has a cache of its own. Warm it: all of them do.",
    "whole_prompt_asked": "It is cached, but prompt log-probabilities want every position. Leave them out.",
    "diverged": "The prompts differ from there on. Put what they have in common first.",
}


@dataclass(frozen=True)
class _Parting:
    """Where two prompts part, with more around it than is shown. message: of ours."""

    token: int
    message: int | None
    role: str | None
    is_in_tools: bool
    before: str
    theirs: str
    ours: str
    same: int
    """Characters at the end of `before` that are of the token that differs."""

    def shown(self) -> FirstDifference:
        first = len(self.before) - self.same
        before, same = self.before[:first], self.before[first:]
        return FirstDifference(
            token=self.token,
            message=None if self.is_in_tools else self.message,
            role=None if self.is_in_tools else self.role,
            before=before[-_SHOWN:],
            theirs=(same + self.theirs)[:_SHOWN],
            ours=(same + self.ours)[:_SHOWN],
        )


def explain(question: Question) -> CacheExplanation:
    """Takes time in proportion to the prompt: call it off the event loop."""
    state = question.state
    parting = _parting(question)
    cause = _cause(question, parting)
    lost = 0 if cause in _NOTHING_LOST else max(0, _within_reach(question, parting) - state.cached_tokens)
    return CacheExplanation(
        prompt_tokens=len(question.ours.ids),
        cached_tokens=state.cached_tokens,
        first_difference=None if parting is None or cause == "first_seen" else parting.shown(),
        cause=cause,
        lost_tokens=lost,
        lost_seconds=lost * state.seconds_per_token,
        advice=_ADVICE[cause],
    )


def _within_reach(question: Question, parting: _Parting | None) -> int:
    """Tokens of ours that the earlier prompt has, or would have without the difference; at least the missing block."""
    missing = question.state.cached_tokens + question.state.block_size
    was_there = question.state.was_evicted or question.whole(question.shared) > question.state.cached_tokens
    if question.theirs is None or was_there:
        return min(question.possible, max(question.whole(question.shared), missing))
    return min(question.possible, question.whole(len(question.theirs.ids))) if parting else 0


def _cause(question: Question, parting: _Parting | None) -> str:
    state, theirs = question.state, question.theirs
    if not question.possible:
        return "too_short"
    if state.wants_all:
        return "whole_prompt_asked"
    if state.cached_tokens >= question.possible:
        return "none"
    if state.was_evicted:
        return "evicted"
    if theirs is None:
        return "first_seen"
    if question.whole(question.shared) > state.cached_tokens:
        return _why_not_shared(question)
    if parting is None:  # ours goes on where theirs ended, and all of theirs is cached
        return "none"
    kind = _kind(question, parting)
    is_unlike = question.shared < state.block_size and not question.is_named
    return "first_seen" if is_unlike and kind == "diverged" else kind


def _why_not_shared(question: Question) -> str:
    """The earlier prompt has whole blocks of the same tokens, and the cache does not have them for ours."""
    ours, theirs = question.ours, question.theirs
    assert theirs is not None, "something is shared"
    missing = question.state.cached_tokens + question.state.block_size - 1
    has_other_kv = theirs.facts.kv_at(missing) != ours.facts.kv_at(missing)
    # A mix has no version: another recipe is another adapter.
    is_other_adapter = has_other_kv and (theirs.facts.adapter != ours.facts.adapter or not ours.facts.version)
    life = theirs.life
    epoch = None if life is None else question.state.epochs.get(life.replica)
    tests = (
        ("other_tenant", theirs.facts.tenant != ours.facts.tenant),
        ("other_adapter", is_other_adapter),
        ("adapter_version", has_other_kv),
        ("other_salt", theirs.cache_salt != ours.cache_salt),
        ("first_seen", life is None),
        ("other_replica", epoch is None),
        ("engine_restarted", life is not None and life.epoch != epoch),
    )
    return next((cause for cause, holds in tests if holds), "evicted")


def _kind(question: Question, parting: _Parting) -> str:
    """Of a difference in the tokens."""
    assert question.theirs is not None, "the prompts part"
    ours, theirs = question.ours.outline, question.theirs.outline
    if parting.is_in_tools:
        return "tools_reordered" if sorted(ours.tools) == sorted(theirs.tools) else "tools_changed"
    if kind := kind_of_value(parting.before, parting.theirs, parting.ours):
        return kind
    if not ours.messages or not theirs.messages:
        return "diverged"
    at = len(ours.messages) if parting.message is None else parting.message
    if ours.messages[: at + 1] == theirs.messages[: at + 1]:
        if _has_reasoning(question, parting):
            return "reasoning_dropped"
        return "format_changed" if ours.options != theirs.options else "diverged"
    goes_on = set(ours.messages[at + 1 :]) & set(theirs.messages[at:]) or set(ours.messages[at:]) & set(
        theirs.messages[at + 1 :]
    )
    is_earlier = at < len(theirs.messages) - 1
    return "history_edited" if is_earlier and (goes_on or question.is_named) else "diverged"


def _has_reasoning(question: Question, parting: _Parting) -> bool:
    """One of the two goes on with reasoning and the other does not."""
    form = question.model.reasoning_format
    channel = f"{CHANNEL}analysis" if question.model.writes_channels else "<think>"
    begin = channel if form is None else form.begin
    # The first characters of a marker may be part of what both have.
    tail = parting.before[-len(begin) + 1 :]
    has = [begin in (tail + text)[: 2 * len(begin)] for text in (parting.theirs.lstrip(), parting.ours.lstrip())]
    return has[0] != has[1]


def _parting(question: Question) -> _Parting | None:
    """None: one prompt is the beginning of the other, or there is no other."""
    ours, theirs, at = question.ours, question.theirs, question.shared
    if theirs is None or at >= min(len(ours.ids), len(theirs.ids)):
        return None
    decode: Callable[[list[int]], str] = question.model.tokenizer.decode
    texts = [decode(ids[at : at + _READ].tolist())[:_READ] for ids in (theirs.ids, ours.ids)]
    before = decode(ours.ids[max(0, at - _READ) : at].tolist())[-_READ:]
    # Other tokens may begin with the same characters.
    same = num_alike(*texts)
    message, role, is_in_tools = _place(question, at, same)
    return _Parting(at, message, role, is_in_tools, before + texts[0][:same], texts[0][same:], texts[1][same:], same)


def _place(question: Question, token: int, same: int) -> tuple[int | None, str | None, bool]:
    """(message, its role, whether it is in the tools instead). same: characters from the token's first one on that both
    prompts have."""
    assert question.theirs is not None, "the prompts part"
    if question.chat is None:
        return None, None, False
    model, ids = question.model, question.ours.ids.tolist()
    conversation = Conversation(question.chat, ids, model.tokenizer, model.writes_channels)
    span = conversation.span(token)
    if span is None:
        return None, None, False
    start, end = span[0] + same, max(span[1], span[0] + same + 1)
    # Tools of equal checksums may still have their keys in another order.
    has_tools = bool(question.ours.outline.tools or question.theirs.outline.tools)
    if has_tools and conversation.is_in_tools(start, end):
        return None, None, True
    message = conversation.message_at(start)
    return message, None if message is None else str(question.chat.messages[message].get("role")), False
