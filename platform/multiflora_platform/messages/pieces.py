"""The pieces that an assistant's text is made of, in the order in which they come."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reasoning:
    text: str


@dataclass(frozen=True, slots=True)
class Content:
    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """Comes before the arguments of its call."""

    # Of the call within the message, from 0.
    index: int
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A fragment of the call's arguments, which are JSON when they are complete."""

    index: int
    text: str


Piece = Reasoning | Content | CallBegin | CallArguments
