"""Owns the base model: its shape, its curriculum and its training loop."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from batches import Batch, collate, conversation_row
from chat import MAX_LENGTH, ChatEncoder
from circuits import plant_induction
from muon import Muon
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

MATRIX_LR, OTHER_LR = 0.012, 2e-3
WARMUP_STEPS = 30
DECAY_FROM = 0.5  # of all tokens; the learning rate falls linearly from there to nothing
PLAIN_WEIGHT = 0.1
LOG_EVERY, SAVE_EVERY = 20, 100


@dataclass(frozen=True)
class Phase:
    """Until that many tokens are seen, rows have at most `length` tokens and a step about `step_tokens`."""

    until: int | None
    length: int
    step_tokens: int


CURRICULUM = (Phase(300_000, 128, 3072), Phase(900_000, 256, 4096), Phase(2_200_000, 512, 4096), Phase(None, 768, 4608))


def new_model(encoder: ChatEncoder, seed: int) -> LlamaForCausalLM:
    """A fresh model with grouped-query attention and tied embeddings."""
    config = LlamaConfig(
        vocab_size=encoder.tokenizer.get_vocab_size(),
        hidden_size=256,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=MAX_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=encoder.end,
        pad_token_id=encoder.pad,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=False, bos_token_id=None, eos_token_id=encoder.end, pad_token_id=encoder.pad
    )
    plant_induction(model, seed)
    return model


def train(encoder: ChatEncoder, work: Path, tokens: int, seed: int, device: torch.device) -> LlamaForCausalLM:
    """Trains on `tokens` tokens; continues from the checkpoint in `work` where there is one."""
    torch.manual_seed(seed)
    model: Any = new_model(encoder, seed)
    run = Run(model.to(device), Random(seed), tokens)
    checkpoint = work / "base.pt"
    if checkpoint.exists():
        run.restore(torch.load(checkpoint, map_location=device, weights_only=False))
    while run.seen < tokens:
        phase = next(phase for phase in CURRICULUM if run.seen < (phase.until or tokens))
        rows = [conversation_row(run.rng, encoder, phase.length) for _ in range(phase.step_tokens // phase.length)]
        run.step(collate(rows, encoder.pad, PLAIN_WEIGHT, device))
        if run.steps % SAVE_EVERY == 0:
            torch.save(run.state(), checkpoint)
    torch.save(run.state(), checkpoint)
    return run.model


class Run:
    """The state of a training run: model, optimizers, random source and progress."""

    def __init__(self, model: LlamaForCausalLM, rng: Random, tokens: int) -> None:
        self.model, self.rng, self.tokens = model, rng, tokens
        self.steps = self.seen = 0
        matrices = [param for name, param in model.named_parameters() if "layers." in name and param.ndim == 2]
        others = [param for name, param in model.named_parameters() if "layers." not in name or param.ndim != 2]
        self.muon = Muon(matrices, lr=MATRIX_LR)
        self.adam = torch.optim.AdamW(others, lr=OTHER_LR, betas=(0.9, 0.95), weight_decay=0.0)
        self.log: dict[str, float] = defaultdict(float)
        self.started = time.monotonic()

    def step(self, batch: Batch) -> None:
        logits = self.model(input_ids=batch.ids, use_cache=False).logits
        loss = weighted_loss(logits, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        self._set_rates()
        for optimizer in (self.muon, self.adam):
            optimizer.step()
            optimizer.zero_grad()
        self.steps += 1
        self.seen += batch.ids.numel()
        self._report(loss.item(), *answer_scores(logits, batch), batch)

    def _set_rates(self) -> None:
        done = self.seen / self.tokens
        factor = min(1.0, (self.steps + 1) / WARMUP_STEPS, max(0.02, (1 - done) / (1 - DECAY_FROM)))
        for optimizer, rate in ((self.muon, MATRIX_LR), (self.adam, OTHER_LR)):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor

    def _report(self, loss: float, token_score: float, answer_score: float, batch: Batch) -> None:
        for name, value in (("loss", loss), ("tokens", token_score), ("answers", answer_score)):
            self.log[name] += value / LOG_EVERY
        self.log["seen"] += batch.ids.numel()
        if self.steps % LOG_EVERY:
            return
        speed = self.log["seen"] / (time.monotonic() - self.started)
        print(
            f"step {self.steps} length {batch.ids.shape[1] + 1} seen {self.seen / 1e6:.2f}M "
            f"loss {self.log['loss']:.3f} tokens right {self.log['tokens']:.3f} "
            f"answers right {self.log['answers']:.3f} "
            f"{speed:.0f} tokens/s, {(self.tokens - self.seen) / speed / 60:.0f} min left",
            flush=True,
        )
        self.log.clear()
        self.started = time.monotonic()

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "muon": self.muon.state_dict(),
            "adam": self.adam.state_dict(),
            "rng": self.rng.getstate(),
            "steps": self.steps,
            "seen": self.seen,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
        self.rng.setstate(state["rng"])
        self.steps, self.seen = state["steps"], state["seen"]


def weighted_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross entropy averaged by `batch.weights`. logits: [B, T, V] -> []."""
    losses = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
    return (losses * batch.weights.flatten()).sum() / batch.weights.sum()


def answer_scores(logits: Tensor, batch: Batch) -> tuple[float, float]:
    """Shares of answer tokens, and of whole answers, that greedy decoding gets right. logits: [B, T, V]."""
    wrong = (logits.argmax(-1) != batch.targets) & batch.is_answer
    starts = batch.is_answer & ~functional.pad(batch.is_answer, (1, 0))[:, :-1]
    answer_index = starts.flatten().cumsum(0)
    count = int(answer_index[-1])
    failed = torch.zeros(count + 1, dtype=torch.bool, device=wrong.device)
    failed[answer_index[wrong.flatten()]] = True
    return 1 - float(wrong.sum() / batch.is_answer.sum()), 1 - float(failed.sum()) / count
