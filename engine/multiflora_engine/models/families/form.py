"""What a family's decoder computes and how its checkpoints call the modules: data, which the decoder reads. Torch-free.

Sizes are the configuration's. Every default is Llama's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from multiflora_engine.models.families.mixture import Mixture

SlidingWindows = Literal["never", "every_layer", "if_switched_on"]
QKNorms = Literal["head", "each_head", "all_heads"]
"""What norms of queries, and those of keys, go over: each head with the same weights, each with its own, or all heads
of a token at once."""


@dataclass(frozen=True)
class ModuleNames:
    """Modules by their paths in transformers (or in the hub's code where that is all there is), which PEFT's files and
    the checkpoint use. Those of a layer stand below `layers`.N; None: the family has no such module."""

    embedding: str = "model.embed_tokens"
    position_embedding: str | None = None  # a learned vector for each position
    embedding_norm: str | None = None  # over what the first layer gets
    layers: str = "model.layers"
    input_norm: str | None = "input_layernorm"  # over what attention reads
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    q_norm: str | None = None  # over query heads before the rotation; a {} is a head's number, where each has a module
    k_norm: str | None = None  # over key heads, likewise
    sinks: str | None = None  # a parameter: to each head a score more, whose value is nothing
    o: str = "self_attn.o_proj"
    attention_output_norm: str | None = None  # over the attention's output, before it joins the residual
    mlp_norm: str | None = "post_attention_layernorm"  # over what the MLP reads; None beside attention: the same input
    up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")  # gate first; one that holds both, or an ungated MLP's only
    down: str = "mlp.down_proj"
    mlp_output_norm: str | None = None  # over the MLP's output, before it joins the residual
    norm: str = "model.norm"
    head: str = "lm_head"
    root: str = "model."  # what checkpoints of the decoder without its head leave out of every name
    stored_head: str | None = None  # what files call the head where that is another name
    derived: tuple[str, ...] = ()  # ends of buffers in older files that follow from the configuration


@dataclass(frozen=True)
class Scales:
    """Factors and caps that most families do without."""

    embedding: float = 1.0  # of token embeddings
    attention: float | None = None  # of the products of queries and keys; None: 1 / sqrt(head size)
    attention_softcap: float | None = None  # caps those products, scaled
    residual: float = 1.0  # of what attention and MLP add to the residual
    logits: float = 1.0
    logit_softcap: float | None = None  # caps the logits, scaled


@dataclass(frozen=True)
class Form:
    """One family's decoder, as far as its config.json has decided; a family's `form` makes it."""

    modules: ModuleNames = ModuleNames()
    norm: Literal["rms", "layer"] = "rms"
    norm_has_bias: bool = False
    norm_adds_one: bool = False  # the checkpoint holds w of norms that multiply by 1 + w
    norm_in_float32: bool = False  # weights of norms stay float32, and multiply before the result is rounded
    qk_norm: QKNorms = "head"
    qk_norm_has_bias: bool = False
    is_parallel: bool = False  # attention and MLP read the layer's input and join the residual at once
    is_gated: bool = True  # the MLP's first product has a gate
    is_multi_head: bool = False  # each head has keys and values of its own, whatever config.json says
    qkv_bias: bool = False
    qkv_limit: float | None = None  # queries, keys and values are cut to between its negative and it
    o_bias: bool = False
    up_bias: bool = False  # of gate, too
    down_bias: bool = False
    head_bias: bool = False
    head_is_normalised: bool = False  # its rows are divided by their lengths; no adapter may touch it
    qkv_is_grouped: bool = False  # one linear whose rows are, for each key head, its queries, its key, its value
    rotates_neighbours: bool = False  # dimensions 2i and 2i + 1 of a head turn together, not i and i + half
    rotates: bool = True  # positions turn queries and keys
    unrotated_layers: frozenset[int] = frozenset()  # where they do not, though they do in the others
    rotates_with_windows: bool = False  # only layers with a window do
    has_local_rope: bool = False  # layers with a window have a rotation of their own
    rotates_part_of_a_head: bool = False  # a partial_rotary_factor is read
    rotary_dim: int | None = None  # of a head, how many turn; None: as partial_rotary_factor says, or all
    position_offset: int = 0  # the row of the learned position 0
    is_transposed: bool = False  # layers' linears are stored [in, out]
    sliding: SlidingWindows = "never"  # which layers have a window where `layer_types` does not say
    windowed_layers: frozenset[int] | None = None  # the layers that `sliding` means; None: all from a first one on
    reads_layer_types: bool = False  # layers without a window may stand between others
    scales: Scales = Scales()
    mixture: Mixture | None = None  # what stands for the MLP of some layers; None: all are dense
    slopes: tuple[float, ...] = ()  # ALiBi's, one for each query head; without: scores do not depend on the distance


def all_but_every(count: int, layers: int) -> frozenset[int]:
    """The layers that have a window where every count-th has none."""
    return frozenset(layer for layer in range(layers) if (layer + 1) % count)
