"""What makes two prompts part: a value that changes, or an order that does. Only what is certain is named."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from multiflora_platform.insight.changing_values import find_value, without_values
from multiflora_platform.insight.drift.parting import Parting, order_parting, value_parting
from multiflora_platform.insight.kept_prompts import Outline
from multiflora_platform.text.common_beginning import num_alike

Decode = Callable[[Sequence[int]], str]

_AROUND = 48
"""Tokens before a difference that are read, so that values are whole."""
_BEHIND = 24
"""Tokens of what is alike again: fewer than LEAST_TOKENS, so that texts of both end at the same place."""
_MOST_REORDERED = 4096
"""Tokens of what stands in another order."""
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Difference:
    """kind: timestamp, uuid, nonce, counter, tools_reordered or keys_reordered; None: it may be anything. at: the first
    token that differs; back: how many characters before it the value begins. lost: tokens that would be shared without
    it. example: the earlier text and this one's, a few words."""

    kind: str | None
    at: int
    back: int
    lost: int
    example: str


def difference(
    ours: array[int], theirs: array[int], at: int, outlines: tuple[Outline, Outline], decode: Decode
) -> Difference | None:
    """None where prompts that part there have nothing in common behind it. outlines: ours and theirs."""
    parting = value_parting(ours, theirs, at)
    if parting is not None and (found := _value(ours, theirs, parting, decode)):
        return found
    reordered = order_parting(ours, theirs, at)
    if reordered is not None and (found := _order(ours, theirs, reordered, outlines, decode)):
        return found
    return None if parting is None else Difference(None, at, 0, parting.length, "")


def _value(ours: array[int], theirs: array[int], parting: Parting, decode: Decode) -> Difference | None:
    before = decode(ours[max(0, parting.at - _AROUND) : parting.at])
    texts = [decode(ids[parting.at : stop + _BEHIND]) for ids, stop in ((theirs, parting.theirs), (ours, parting.ours))]
    # Other tokens may begin with the same characters.
    same = num_alike(*texts)
    value = find_value(before + texts[0][:same], texts[0][same:], texts[1][same:], same_after=1)
    if value is None or len({without_values(before + text) for text in texts}) > 1:
        return None
    example = " -> ".join(repr((before + text)[value.start :][:_SHOWN]) for text in texts)
    return Difference(value.kind, parting.at, len(before) - value.start, parting.length, example)


def _order(
    ours: array[int], theirs: array[int], parting: Parting, outlines: tuple[Outline, Outline], decode: Decode
) -> Difference | None:
    tools, other_tools = outlines[0].tools, outlines[1].tools
    has_tools_reordered = tools != other_tools and sorted(tools) == sorted(other_tools)
    if not has_tools_reordered and parting.ours - parting.at > _MOST_REORDERED:
        return None
    begin = max(0, parting.at - _AROUND)
    texts = [decode(ids[begin : parting.ours]) for ids in (theirs, ours)]
    if not has_tools_reordered and not (sorted(texts[0]) == sorted(texts[1]) and '":' in texts[0]):
        return None
    kind = "tools_reordered" if has_tools_reordered else "keys_reordered"
    first = num_alike(*texts)
    example = " -> ".join(repr(text[first:][:_SHOWN]) for text in texts)
    # With the same order, all to the end of what is alike would be shared.
    return Difference(kind, parting.at, 0, parting.ours + parting.length - parting.at, example)
