"""Documents of a prompt whose KV is taken from where they stand behind the prompt's beginning alone. Types, and where
they lie; knows no blocks' hashes and no devices.

A document's KV is computed once, as that of the prompt (beginning, document). In a prompt of several documents all but
the first stand elsewhere: their keys are turned by the distance (Prompt Cache, Gim et al., MLSys 2024), and their first
tokens, which depend most on what is before them, are computed where they stand (EPIC, Hu et al., 2024).
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from typing import NamedTuple

from multiflora_adapters.kv_reach import Activation
from multiflora_engine.protocol.requests import GenerateRequest


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


def moved_spans(request: GenerateRequest, block_size: int) -> tuple[MovedSpan, ...]:
    """Of each document but the first, which stands where it was computed, what whole blocks hold of it. The prompt's
    last token is computed in any case; where something is wanted of all tokens, all are."""
    if request.reads_whole_prompt:
        return ()
    num_asked = request.num_asked_tokens or len(request.prompt_token_ids)
    spans: list[MovedSpan] = []
    for document in request.documents[1:]:
        beginning = request.documents[0].start
        end = (beginning + document.stop - document.start) // block_size * block_size - beginning
        start, stop = document.start + document.num_recomputed, document.start + end
        if start < stop < num_asked:
            source = beginning + document.num_recomputed
            spans.append(MovedSpan(start, stop, source, document.start, beginning))
    return tuple(spans)


def before_activation(spans: Items[MovedSpan], activation: Activation | None) -> tuple[MovedSpan, ...]:
    """What an activated LoRA computes of a document, it would not compute of the document alone."""
    return tuple(span for span in spans if activation is None or span.stop <= activation.token)
