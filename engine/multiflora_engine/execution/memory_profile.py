"""How much of a GPU's memory the largest step takes beside weights, adapters and KV: found out by running one."""

from __future__ import annotations

import torch

from multiflora_engine.core.rank_group import RankGrid
from multiflora_engine.execution.device import choose_kv_dtype
from multiflora_engine.execution.dummy_batch import dummy_batch
from multiflora_engine.execution.kv_memory import allocate_kv_cache
from multiflora_engine.execution.step_sizes import mixed_sizes
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.decoder import Decoder
from multiflora_engine.models.rotary import model_tables
from multiflora_engine.models.weights import ModelWeights
from multiflora_engine.protocol.config import SizedConfig

_SAMPLING_COPIES = 4
"""Of the logits in 4 bytes, that sampling makes at most beside the logits themselves; counts of seen tokens are one."""


@torch.inference_mode()
def step_bytes(config: SizedConfig, model: ModelConfig, weights: ModelWeights, ranks: RankGrid | None = None) -> int:
    """Bytes at the peak of a prefill of max_num_batched_tokens, and what the graphs of the largest steps that have one
    keep for good."""
    # As many short prompts as possible: the logits of all of them are due in one step.
    sequences = config.max_num_seqs
    prefill = _peak(config, model, weights, ranks, sequences, -(-config.max_num_batched_tokens // sequences))
    # Graphs share one pool of memory, which is as large as the largest of them needs.
    graphed = [(sequences, 1), (1, mixed_sizes(config.max_num_batched_tokens)[-1])]
    graphs = 0 if config.enforce_eager else max(_peak(config, model, weights, ranks, *step) for step in graphed)
    sampling = _SAMPLING_COPIES * sequences * model.vocab_size * torch.float32.itemsize
    return prefill + graphs + sampling


def _peak(
    config: SizedConfig,
    model: ModelConfig,
    weights: ModelWeights,
    ranks: RankGrid | None,
    sequences: int,
    tokens: int,
) -> int:
    device = weights.device
    decoder = Decoder(model, weights, model_tables(model, tokens, device), ranks=ranks)
    batch, blocks = dummy_batch([None] * sequences, tokens, config.block_size, model.vocab_size, device, 1)
    kv_dtype = choose_kv_dtype(config.kv_cache_dtype, weights.kv_dtype)
    cache = allocate_kv_cache(model, blocks, config.block_size, kv_dtype, device)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    # Weights and this cache are there already; only what the pass takes beside them counts.
    before = torch.cuda.memory_allocated(device)
    decoder.all_logits(batch, cache)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
