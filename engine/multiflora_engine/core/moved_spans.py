"""Documents of a prompt whose KV is taken from where they stand behind the prompt's beginning alone. Types, and where
they lie; knows no blocks' hashes and no devices.

A document's KV is computed once, as that of the prompt (beginning, document). In a prompt of several documents all but
the first stand elsewhere: their keys are turned by the distance (Prompt Cache, Gim et al., MLSys 2024), and their first
tokens, which depend most on what is before them, are computed where they stand (EPIC, Hu et al., 2024).
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import NamedTuple

from multiflora_engine.protocol.requests import DocumentSpan


class MovedSpan(NamedTuple):
    """Tokens [start, stop) of a prompt, which stand at [source, source + stop - start) behind the beginning alone."""

    start: int
    stop: int
    source: int
    # Of the document that they are of, its first token; and the beginning's length.
    document: int
    beginning: int


class KvMove(NamedTuple):
    """What a step copies before it computes: to the tokens [start, stop) of a sequence, from published blocks.

    blocks: of the source, one after another; offset: of the first token in the first of them. distance: by how many
    positions the tokens stand further back than in the source.
    """

    blocks: tuple[int, ...]
    offset: int
    start: int
    stop: int
    distance: int


def moved_spans(documents: Items[DocumentSpan], block_size: int) -> tuple[MovedSpan, ...]:
    """Of each document but the first, which stands where it was computed, what whole blocks hold of it."""
    spans: list[MovedSpan] = []
    for document in documents[1:]:
        beginning = documents[0].start
        end = (beginning + document.stop - document.start) // block_size * block_size - beginning
        start, stop = document.start + document.num_recomputed, document.start + end
        if start < stop:
            source = beginning + document.num_recomputed
            spans.append(MovedSpan(start, stop, source, document.start, beginning))
    return tuple(spans)
