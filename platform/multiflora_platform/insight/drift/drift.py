"""Which prompts of a tenant miss the cache over and over at the same place, and by what. In memory, bounded.

Each prompt is compared with the tenant's last ones when it comes, and counted when the engine says what it missed.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from multiflora_platform.insight.drift.advice import advice
from multiflora_platform.insight.drift.kinds import Decode, Difference, difference
from multiflora_platform.insight.drift.parting import LEAST_TOKENS, num_shared
from multiflora_platform.insight.kept_prompts import KeptPrompt, KeptPrompts
from multiflora_platform.insight.views.misses import DriftItem
from multiflora_platform.observability.observers import Observer, PromptStart

_log = logging.getLogger(__name__)

WINDOW = 3600.0
"""Seconds for which a prompt counts."""
LEAST_PROMPTS, LEAST_SHARE = 5, 0.1
"""That part at one place, of all of the tenant's for the model: fewer are no finding."""
_COMPARED = 8
_MOST_GROUPS, _MOST_PROMPTS, _MOST_PLACES = 256, 256, 32
# Where one of the kind is known, the next look is not before that.
_LOCATE_SECONDS = 1.0
# Of numbers at one place that shrank or were unlike, as many may be among those that grew.
_UNLIKE_SHARE = 0.2


@dataclass(frozen=True)
class PromptPlace:
    """message, role: of the chat; None where it is a text, or in the tools. position: the value's first character, from
    the beginning of the message's own text, or of the prompt."""

    message: int | None
    role: str | None
    position: int


Locate = Callable[[msgspec.Struct, KeptPrompt, int, int], PromptPlace]
"""(body, prompt, token, characters before it) -> where that is. Takes time in proportion to the prompt."""


@dataclass(frozen=True)
class PromptReader:
    """Of one base model's prompts."""

    decode: Decode
    locate: Locate


@dataclass(frozen=True, slots=True)
class _Missed:
    """One prompt. difference: None where it parts from no other for a reason that is known."""

    at: float
    difference: Difference | None
    place: PromptPlace | None


@dataclass
class _Group:
    """Of one tenant, base model and model."""

    missed: deque[_Missed] = field(default_factory=lambda: deque(maxlen=_MOST_PROMPTS))
    # By kind and token: looking a place up takes longer than all else.
    places: OrderedDict[tuple[str, int], PromptPlace] = field(default_factory=OrderedDict)


class Drift:
    """reader_of: of the base model with that digest; None where it is not served any more. clock: Unix seconds."""

    def __init__(self, reader_of: Callable[[str], PromptReader | None], clock: Callable[[], float] = time.time) -> None:
        self._reader_of = reader_of
        self._clock = clock
        self._located_at = 0.0
        self._groups: OrderedDict[tuple[str | None, str, str], _Group] = OrderedDict()

    def follow(self, prompt: KeptPrompt, body: msgspec.Struct, prompts: KeptPrompts) -> Observer:
        """What counts the prompt, whose body this was, once it has begun. prompts: those before it."""
        found: Difference | None = None
        place: PromptPlace | None = None
        try:
            found = self._difference(prompt, prompts)
            place = None if found is None or found.kind is None else self._place(prompt, body, found)
        except Exception:
            # What is told of a prompt must not end the request.
            _log.exception("What a prompt drifts by could not be told")
        return _Counting(self, prompt, found, place)

    def count(self, prompt: KeptPrompt, found: Difference | None, place: PromptPlace | None) -> None:
        group = self._group(prompt)
        group.missed.append(_Missed(self._clock(), found, place))

    def items(
        self, seconds_per_token: Callable[[str], float], tenant: str | None = None, *, of_all: bool = False
    ) -> list[DriftItem]:
        """What costs most first. seconds_per_token: of the device, by the base model's digest. tenant: whose, unless
        of_all; None: admins'."""
        found: list[DriftItem] = []
        for (owner, base, model), group in self._groups.items():
            if of_all or owner == tenant:
                found += self._items(owner, model, group, seconds_per_token(base))
        return sorted(found, key=lambda item: -item.lost_tokens)

    def _items(self, tenant: str | None, model: str, group: _Group, seconds_per_token: float) -> Iterator[DriftItem]:
        now = self._clock()
        recent = [one for one in group.missed if now - one.at < WINDOW]
        unlike = Counter(one.difference.at for one in recent if one.difference and one.difference.kind is None)
        groups: dict[tuple[int | None, str], list[tuple[_Missed, Difference, PromptPlace]]] = {}
        for one in recent:
            if one.difference and one.difference.kind and one.place:
                groups.setdefault((one.place.message, one.difference.kind), []).append((one, one.difference, one.place))
        for (_, kind), parted in groups.items():
            share = len(parted) / len(recent)
            if len(parted) < LEAST_PROMPTS or share < LEAST_SHARE:
                continue
            others = sum(unlike[at] for at in {difference.at for _, difference, _ in parted})
            if kind == "counter" and others > _UNLIKE_SHARE * len(parted):
                continue
            place, _ = Counter(place for _, _, place in parted).most_common(1)[0]
            lost = sum(difference.lost for _, difference, _ in parted)
            minutes = max(1.0, (now - recent[0].at) / 60)
            per_minute = lost * seconds_per_token / minutes
            yield DriftItem(
                tenant=tenant,
                model=model,
                message=place.message,
                role=place.role,
                position=place.position,
                kind=kind,
                share=share,
                prompts=len(parted),
                lost_tokens=lost,
                lost_seconds_per_minute=per_minute,
                example=parted[-1][1].example,
                advice=advice(kind, share, tenant, place.role, place.position, per_minute),
            )

    def _difference(self, prompt: KeptPrompt, prompts: KeptPrompts) -> Difference | None:
        """From the prompt, of the last ones that it could share with, that begins most like it."""
        best: tuple[int, KeptPrompt] | None = None
        for other in prompts.newest_like(prompt, _COMPARED):
            shared = num_shared(prompt.ids, other.ids)
            if best is None or shared > best[0]:
                best = shared, other
        if best is None or min(len(prompt.ids), len(best[1].ids)) - best[0] < LEAST_TOKENS:
            return None
        reader = self._reader_of(prompt.facts.base_digest)
        if reader is None:
            return None
        at, other = best
        return difference(prompt.ids, other.ids, at, (prompt.outline, other.outline), reader.decode)

    def _place(self, prompt: KeptPrompt, body: msgspec.Struct, found: Difference) -> PromptPlace:
        assert found.kind is not None, "only what is named has a place"
        places, key = self._group(prompt).places, (found.kind, found.at)
        if key in places:
            return places[key]
        now = self._clock()
        near = [place for (kind, _), place in places.items() if kind == found.kind]
        if near and now - self._located_at < _LOCATE_SECONDS:
            # Names of many lengths before a value: the last place of its kind is as good as another look.
            return near[-1]
        self._located_at = now
        reader = self._reader_of(prompt.facts.base_digest)
        assert reader is not None, "it has just read the difference"
        places[key] = reader.locate(body, prompt, found.at, found.back)
        if len(places) > _MOST_PLACES:
            places.popitem(last=False)
        return places[key]

    def _group(self, prompt: KeptPrompt) -> _Group:
        key = prompt.facts.tenant, prompt.facts.base_digest, prompt.facts.model
        group = self._groups.setdefault(key, _Group())
        self._groups.move_to_end(key)
        if len(self._groups) > _MOST_GROUPS:
            self._groups.popitem(last=False)
        return group


class _Counting(Observer):
    """Counts one prompt when its first token is there."""

    def __init__(self, drift: Drift, prompt: KeptPrompt, found: Difference | None, place: PromptPlace | None) -> None:
        self._drift, self._prompt, self._found, self._place = drift, prompt, found, place

    def started(self, start: PromptStart) -> None:
        found = self._found
        # What the cache had all the same, from a prompt that came earlier, was not missed.
        if found is not None and start.cached_tokens > found.at:
            found = None
        self._drift.count(self._prompt, found, self._place)
