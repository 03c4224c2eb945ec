"""Owns turning conversations into padded tensors. Knows nothing of models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import corpus
import torch
from chat import ChatEncoder, Encoded
from torch import Tensor

TOKENS_PER_FACT = 17  # measured; sets how much of a row the context takes


@dataclass(frozen=True)
class Batch:
    """ids: [B, T] inputs; targets: [B, T] next tokens; weights: [B, T] their share of the loss; is_answer: [B, T]."""

    ids: Tensor
    targets: Tensor
    weights: Tensor
    is_answer: Tensor


def collate(rows: Sequence[Encoded], pad: int, plain_weight: float, device: torch.device) -> Batch:
    """Pads on the right (causal attention needs no mask then); answers weigh 1, other text `plain_weight`."""
    length = max(len(row) for row in rows)
    ids = torch.tensor([row.ids + [pad] * (length - len(row)) for row in rows])
    answer = torch.tensor([row.is_answer + [False] * (length - len(row)) for row in rows])
    weights = torch.where(answer, 1.0, plain_weight) * (ids != pad)
    tensors = (ids[:, :-1], ids[:, 1:], weights[:, 1:], answer[:, 1:])
    return Batch(*(tensor.to(device) for tensor in tensors))


def conversation_row(rng: Random, encoder: ChatEncoder, length: int) -> Encoded:
    """One conversation of at most `length` tokens, filled with turns until the next one does not fit."""
    while True:
        facts = max(2, int(length * rng.uniform(0.2, 0.6) / TOKENS_PER_FACT))
        context, turns = corpus.conversation(rng, facts)
        row = encoder.system(context) if context else Encoded([], [])
        for question, answer in turns:
            turn = encoder.turn(question, answer)
            if len(row) + len(turn) > length:
                break
            row = row + turn
        if len(row) <= length and any(row.is_answer):
            return row
