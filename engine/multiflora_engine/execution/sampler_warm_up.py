"""Dummy requests that together use every op of the sampler, so that no kernel is compiled while a client waits."""

from __future__ import annotations

from typing import Any

import torch

from multiflora_engine.core.sequence import Sequence, make_sequences
from multiflora_engine.protocol.requests import GenerateRequest, SamplingParams
from multiflora_engine.sampling.sampler import Sampler

_CUT: dict[str, Any] = {"temperature": 1.0, "top_k": 2, "top_p": 0.9, "min_p": 0.01, "seed": 0}
_PARAMS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0, "logprobs": 1},
    _CUT,
    _CUT | {"allowed_token_ids": (0, 1), "logit_bias": {0: 1.0}, "frequency_penalty": 0.5},
)
"""Greedy, random, and random after every edit of the logits."""


def warm_up_sampler(sampler: Sampler, logits: torch.Tensor) -> None:
    """logits: [L, V] as the decoder makes them; their first row is sampled from in every way."""
    sequences = [_sequence(SamplingParams(**params)) for params in _PARAMS]
    rows = logits[:1].repeat(len(sequences), 1)
    sampler.launch(rows, sequences, [0] * len(sequences)).collect()


def _sequence(params: SamplingParams) -> Sequence:
    (sequence,) = make_sequences(GenerateRequest(id="warm-up", prompt_token_ids=[0], params=params), 0, b"")
    return sequence
