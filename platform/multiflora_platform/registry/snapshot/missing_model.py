"""Why a model's name means nothing, in words for the client: which part is missing, and what it may have meant.

Knows no key: the caller says which adapters exist for it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

from multiflora_platform.registry.snapshot.snapshot import DEFAULT, AdapterEntry, Snapshot

_MOST_SHOWN = 5
# Names that are compared at most, so that one request with a wrong name costs little beside 100,000 adapters.
_MOST_COMPARED = 500
_SELECTOR_SHOWN = 40

Visible = Callable[[str, str | None], bool]


def why_missing(snapshot: Snapshot, model: str, visible: Visible, bases: Sequence[str]) -> str | None:
    """visible(name, owner): whether the adapter exists for who asks. bases: the base models' names. None: no idea."""
    name, at, selector = model.partition("@")
    entry = snapshot.adapters.get(name)
    if entry is not None and visible(entry.name, entry.owner):
        if at and not selector:
            return "the version or the alias after the @ is missing"
        return _missing_part(entry, selector or DEFAULT)
    # Looked at one by one, and no further than they are compared.
    served = (one.name for one in snapshot.adapters.values() if one.digests and visible(one.name, one.owner))
    nearest = _nearest(name, chain((base for base in bases if visible(base, None)), served))
    return f"did you mean {nearest!r}?" if nearest is not None else None


def nearest_adapter(snapshot: Snapshot, name: str, visible: Visible) -> str | None:
    return _nearest(name, (one.name for one in snapshot.adapters.values() if visible(one.name, one.owner)))


def _missing_part(entry: AdapterEntry, selector: str) -> str:
    shown = selector[:_SELECTOR_SHOWN]
    if not (selector.isascii() and selector.isdecimal()):
        return _missing_alias(entry, selector, shown)
    state = entry.unserved.get(int(selector)) if len(selector) < 10 else None
    if state is not None:
        return _unserved(entry.name, shown, state)
    versions = sorted(entry.digests)[-_MOST_SHOWN:]
    return f"{entry.name!r} has no version {shown}; {_these('it serves', map(str, versions))}"


def _missing_alias(entry: AdapterEntry, selector: str, shown: str) -> str:
    alias = entry.aliases.get(selector)
    if alias is not None:
        number = alias.main_version
        return _unserved(entry.name, str(number), entry.unserved.get(number, "not ready"))
    if selector == DEFAULT:
        named = [f"{entry.name}@{number}" for number in sorted(entry.digests)[-_MOST_SHOWN:]]
        return f"{entry.name!r} has no alias 'default'; {_these('name a version', named)}"
    nearest = _nearest(selector, entry.aliases)
    if nearest is not None:
        return f"{entry.name!r} has no alias {shown!r}; did you mean '{entry.name}@{nearest}'?"
    return f"{entry.name!r} has no alias {shown!r}; {_these('it has', sorted(entry.aliases)[:_MOST_SHOWN])}"


def _unserved(name: str, number: str, state: str) -> str:
    return f"version {number} of {name!r} is {state}, and only ready versions are served"


def _these(words: str, items: Iterable[str]) -> str:
    listed = ", ".join(items)
    return f"{words} {listed}" if listed else "no version of it is ready"


def _nearest(name: str, candidates: Iterable[str]) -> str | None:
    similar = (one for one in candidates if abs(len(one) - len(name)) <= 3)
    compared = [one for _, one in zip(range(_MOST_COMPARED), similar, strict=False)]
    folded = {one.casefold(): one for one in compared}
    return next((folded[one] for one in difflib.get_close_matches(name.casefold(), folded, 1, 0.7)), None)
