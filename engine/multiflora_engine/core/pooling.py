"""Embeddings of prompts: which hidden states a chunk gives, and how their sum becomes the answer's bytes.

Knows neither models nor scheduling; normalising to length one is the front end's.
"""

from __future__ import annotations

import numpy as np

from multiflora_engine.core.sequence import Sequence
from multiflora_engine.core.step import Scheduled


def num_pooled(entry: Scheduled) -> int:
    """How many of the chunk's last tokens have hidden states that pooling asks for."""
    sequence = entry.sequence
    if sequence.pooling == "mean":
        return entry.num_tokens
    return int(sequence.pooling == "last" and entry.start + entry.num_tokens == sequence.num_tokens)


def embedding_bytes(sequence: Sequence) -> bytes:
    """Float32 little-endian [H], from the gathered sum."""
    assert sequence.pooled is not None, "something was pooled"
    divisor = sequence.num_prompt_tokens if sequence.pooling == "mean" else 1
    return (sequence.pooled / np.float32(divisor)).astype("<f4").tobytes()
