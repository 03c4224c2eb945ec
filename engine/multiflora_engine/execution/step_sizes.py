"""How large steps are where the operator leaves it to the device: sequences, tokens, its memory's share, graphs.

Torch-free, so that `multiflora doctor` says what an engine will choose. The cards' classes follow vLLM's defaults.
"""

from __future__ import annotations

import math

import msgspec

from multiflora_engine.models.checkpoint import served_bytes
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.quantisation.settings import is_made_at_load
from multiflora_engine.protocol.config import EngineConfig, SizedConfig

_GIB = 1 << 30
_CARDS = ((70 * _GIB, 256, 8192), (30 * _GIB, 256, 4096), (0, 128, 2048))
"""Bytes of memory from which on a card has at most so many sequences and tokens: its memory tells how fast it is, and a
step of so many tokens holds up the decodes beside it by a few tenths of a second."""
_LEAST_SEQUENCES, _LEAST_TOKENS = 16, 512
_CONTEXT = 1024
"""Tokens that a sequence is expected to hold: beside more sequences than have room for as many, some are preempted."""
_ACTIVATIONS_SHARE = 1 / 8
"""Of what the weights leave, that a step's activations may take from the KV cache."""
_SHARE, _SPARE = 0.9, 6 * _GIB
"""Of a GPU's memory, to use; and what that leaves at most, for the driver, fragments and other processes."""
_WIDE = ("float32", "float", "fp32")

_EXACT_GRAPHS = (1, 2, 4)
"""Below the first step of eight: filled up to it, these batches would multiply their rows."""
_GRAPH_STEP, _LARGE_GRAPH_STEP, _LARGE_GRAPH = 8, 16, 128
_MIXED_GRAPHS = (64, 128, 192, 256, 384, 512)
"""Tokens of steps that are no plain decodes. More keep the device busy for longer than launching takes the host."""


def sized(config: EngineConfig, model: ModelConfig, device_memory: int | None) -> SizedConfig:
    """The configuration with the sizes that it leaves open. model: whole. device_memory: bytes of a GPU's, or of each
    rank's; None on a CPU. Raises ModelError where files of weights are missing."""
    chosen = {"gpu_memory_utilization": None} if device_memory is None else _of_card(config, model, device_memory)
    values = {name: getattr(config, name) for name in EngineConfig.__struct_fields__} | chosen
    whole = SizedConfig(**{name: value for name, value in values.items() if value is not None})
    tokens = max(whole.max_num_batched_tokens, whole.max_num_seqs)
    return msgspec.structs.replace(whole, max_num_batched_tokens=tokens)


def _of_card(config: EngineConfig, model: ModelConfig, memory: int) -> dict[str, float | None]:
    share = config.gpu_memory_utilization or round(max(_SHARE, 1 - _SPARE / memory), 3)
    sequences, tokens = config.max_num_seqs, config.max_num_batched_tokens
    if sequences is None or tokens is None:
        most_sequences, most_tokens = next(sizes for least, *sizes in _CARDS if memory >= least)
        room = memory * share - _weight_bytes(config, model) / config.num_ranks
        sequences = sequences or _sequences(config, model, room, most_sequences)
        tokens = tokens or _tokens(config, model, room, most_tokens)
    return {"gpu_memory_utilization": share, "max_num_seqs": sequences, "max_num_batched_tokens": tokens}


def _sequences(config: EngineConfig, model: ModelConfig, room: float, most: int) -> int:
    """A power of two of sequences of which each has its context's KV in the room (bytes), as far as that is enough."""
    item = _item_bytes(config, model) if config.kv_cache_dtype == "auto" else 1
    length = min(_CONTEXT, config.max_model_len or model.max_position_embeddings)
    of_one = 2 * model.num_layers * model.kv_size * item * length / config.num_ranks
    fitting = max(room / of_one, _LEAST_SEQUENCES)
    return min(most, 1 << int(math.log2(fitting)))


def _tokens(config: EngineConfig, model: ModelConfig, room: float, most: int) -> int:
    """Halved until a step's activations take no more than their share of the room (bytes)."""
    of_one = _item_bytes(config, model) * (4 * model.hidden_size + 3 * _inside(model) // config.tensor_parallel_size)
    tokens = most
    while tokens > _LEAST_TOKENS and tokens * of_one > room * _ACTIVATIONS_SHARE:
        tokens //= 2
    return tokens


def _inside(model: ModelConfig) -> int:
    """Columns of the widest MLP's inside, of all experts that a token goes to."""
    mixture = model.form.mixture
    return max(model.intermediate_size, 0 if mixture is None else mixture.top_k * mixture.expert_size)


def _item_bytes(config: EngineConfig, model: ModelConfig) -> int:
    """Of one value of activations, on a GPU."""
    name = (model.dtype or "bfloat16") if config.dtype == "auto" else config.dtype
    return 4 if name in _WIDE else 2


def _weight_bytes(config: EngineConfig, model: ModelConfig) -> int:
    """As the files tell, about; what is quantised at load takes a byte for each weight."""
    is_made = model.quantisation is None and config.quantization is not None and is_made_at_load(config.quantization)
    return served_bytes(model.folder, model.dtype, "int8" if is_made else config.dtype)


def graph_sizes(max_num_seqs: int) -> list[int]:
    """Numbers of sequences that get a graph, ascending; the last is max_num_seqs, the gaps cost at most seven rows (15
    above 128)."""
    few = range(_GRAPH_STEP, _LARGE_GRAPH, _GRAPH_STEP)
    sizes = [*_EXACT_GRAPHS, *few, *range(_LARGE_GRAPH, max_num_seqs, _LARGE_GRAPH_STEP)]
    return [*(size for size in sizes if size < max_num_seqs), max_num_seqs]


def mixed_sizes(max_num_batched_tokens: int) -> list[int]:
    """Numbers of tokens that get a graph for steps which read prompts, ascending."""
    most = min(max_num_batched_tokens, _MIXED_GRAPHS[-1])
    return [*(size for size in _MIXED_GRAPHS if size < most), most]
