"""Requests of nobody that together want all that the sampler can do: no kernel is compiled while somebody waits."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from multiflora_engine.core.sequence import Sequence, make_sequences
from multiflora_engine.execution.pending_step import Samples
from multiflora_engine.protocol.requests import GenerateRequest, SamplingParams

_CUT: dict[str, Any] = {"temperature": 1.0, "top_k": 2, "top_p": 0.9, "min_p": 0.01, "seed": 0}
_WISHES: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0, "logprobs": 1},
    _CUT,
    _CUT | {"allowed_token_ids": (0, 1), "logit_bias": {0: 1.0}, "frequency_penalty": 0.5},
)
"""Greedy, drawn, and drawn after all the edits there are."""


class Sampler(Protocol):
    """As it is used here."""

    def launch(self, logits: torch.Tensor, sequences: list[Sequence], lengths: list[int]) -> Samples: ...


def sample_for_nobody(sampler: Sampler, logits: torch.Tensor) -> None:
    """logits: [L, V] as the decoder makes them; their first row is sampled from in every way."""
    sequences = [_sequence(SamplingParams(**wish)) for wish in _WISHES]
    rows = logits[:1].repeat(len(sequences), 1)
    sampler.launch(rows, sequences, [0] * len(sequences)).collect()


def _sequence(params: SamplingParams) -> Sequence:
    (sequence,) = make_sequences(GenerateRequest(id="warm-up", prompt_token_ids=[0], params=params), 0, b"")
    return sequence
