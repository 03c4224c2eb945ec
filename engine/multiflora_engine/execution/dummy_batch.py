"""Forward passes on dummy tokens, for the engine itself: warm-up, probe, measuring memory. Live KV stays untouched."""

from __future__ import annotations

from typing import Protocol

import torch

from multiflora_engine.core.forward_batch import ForwardBatch
from multiflora_engine.core.transfers import Staging
from multiflora_engine.execution.executor import lora_segments
from multiflora_engine.execution.kv_memory import allocate_kv_cache
from multiflora_engine.execution.step_arrays import adapter_runs
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.decoder import Decoder
from multiflora_kernels.attention.plan import QueryBounds


class Dummy(Protocol):
    """`DummyPass`, as the engine uses it."""

    dtype: torch.dtype

    def logits(self, slots: list[int | None], tokens: int) -> torch.Tensor: ...


class DummyPass:
    """device and dtype: of the weights; kv_dtype: of the KV cache. max_tokens: of a sequence, as far as the decoder's
    rotary tables go."""

    def __init__(
        self,
        decoder: Decoder,
        model: ModelConfig,
        block_size: int,
        max_tokens: int,
        device: torch.device,
        dtype: torch.dtype,
        kv_dtype: torch.dtype,
    ) -> None:
        self._decoder = decoder
        self._model = model
        self._block_size = block_size
        self._max_tokens = max_tokens
        self._device = device
        self.dtype = dtype
        self._kv_dtype = kv_dtype

    def logits(self, slots: list[int | None], tokens: int) -> torch.Tensor:
        """All logits of a fixed prompt under each of `slots` (base first): [S * tokens, V]."""
        tokens = min(tokens, self._max_tokens)
        batch, blocks = dummy_batch(slots, tokens, self._block_size, self._model.vocab_size, self._device, tokens)
        cache = allocate_kv_cache(self._model, blocks, self._block_size, self._kv_dtype, self._device)
        return self._decoder.all_logits(batch, cache)


def dummy_batch(
    slots: list[int | None], tokens: int, block_size: int, vocab_size: int, device: torch.device, logit_tokens: int
) -> tuple[ForwardBatch, int]:
    """One sequence of the same `tokens` tokens for each of `slots` (base first), and how many KV blocks they take.

    logit_tokens: of each sequence's last tokens, how many want logits (1 or all).
    """
    staging = Staging(device)
    count, blocks = len(slots), -(-tokens // block_size)
    tables = torch.arange(blocks * count, dtype=torch.int32, device=device).view(count, blocks)
    positions = torch.arange(tokens, device=device)
    kv_slots = tables[:, positions // block_size] * block_size + positions % block_size
    ends = torch.arange(1, count + 1, device=device) * tokens
    batch = ForwardBatch(
        token_ids=(positions * max(1, vocab_size // tokens) % vocab_size).repeat(count),
        positions=positions.repeat(count),
        kv_slots=kv_slots.long().view(-1),
        query_starts=torch.arange(count + 1, dtype=torch.int32, device=device) * tokens,
        context_lens=torch.full((count,), tokens, dtype=torch.int32, device=device),
        block_tables=tables,
        query_bounds=QueryBounds(tokens, tokens),
        lora=lora_segments(adapter_runs(slots, [tokens] * count), staging),
        logit_rows=None if logit_tokens == tokens else ends - 1,
        logit_lora=lora_segments(adapter_runs(slots, [logit_tokens] * count), staging),
    )
    return batch, blocks * count
