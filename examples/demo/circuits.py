"""Owns the starting weights: two layers begin as an induction circuit, so that copying need not be discovered.

The circuit is the one of Olsson et al. (2022): heads of layer 0 look one and two tokens back; heads of layer 1 look
for places whose preceding tokens equal the current ones, and copy what stands there. A small model finds this by
itself only after many more tokens than minutes on two CPU cores allow. Training moves every weight afterwards.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

EMBEDDING = 0.2  # large enough that single steps of the optimizer do not overrun it
CONSTANT = 1.6  # one embedding dimension is the same for all tokens: what position-only heads hold on to
WRITE = 0.6  # how strongly layer 0 writes neighbours
MATCH = 2.0  # how sharply layer 1 prefers places with the same neighbours
COPY = 1.2  # how strongly it speaks for the token found there
FINAL = 0.1  # the last norm, so that tied embeddings of this size give moderate logits
LOOK_BACK = 8  # rotary pairs, fastest first, that carry a distance


@torch.no_grad()
def plant_induction(model: LlamaForCausalLM, seed: int) -> None:
    """Needs two KV heads with two query heads each. Changes embeddings and the attention of layers 0 and 1."""
    config: Any = model.config
    size, half = config.head_dim, config.head_dim // 2
    assert (config.num_attention_heads, config.num_key_value_heads) == (4, 2), "the circuit is drawn for 4 and 2 heads"
    basis = torch.linalg.qr(torch.randn(config.hidden_size - 1, config.hidden_size - 1,
                                        generator=torch.Generator().manual_seed(seed)))[0]  # fmt: skip
    basis = torch.nn.functional.pad(basis, (1, 0))  # rows are directions without the constant dimension
    token, one_back, two_back, rest = (basis[start : start + size] for start in (0, size, 2 * size, 3 * size - 1))
    model.model.embed_tokens.weight.mul_(EMBEDDING / config.initializer_range)[:, 0] = CONSTANT
    model.model.norm.weight.fill_(FINAL)
    for layer in model.model.layers:  # everything but the circuit starts silent
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    neighbours, matching = (model.model.layers[layer].self_attn for layer in (0, 1))
    rates = config.rope_parameters["rope_theta"] ** (-torch.arange(half) / half)
    mix = torch.linalg.qr(torch.randn(half, half, generator=torch.Generator().manual_seed(seed + 1)))[0]
    slow = _slow_rows(size)
    for group in range(2):
        rows = slice(group * size, (group + 1) * size)
        part = slice(group * half, (group + 1) * half)
        neighbours.k_proj.weight[rows, 0] = _looking_back(rates, 0)
        neighbours.v_proj.weight[rows.start : rows.start + half] = token[part]
        for distance, written in ((1, one_back), (2, two_back)):
            head = slice((2 * group + distance - 1) * size, (2 * group + distance) * size)
            neighbours.q_proj.weight[head, 0] = _looking_back(rates, distance)
            neighbours.o_proj.weight[:, head.start : head.start + half] = WRITE * written[part].T
        matching.k_proj.weight[rows][slow] = MATCH * (one_back[part] + mix @ two_back[part])
        matching.v_proj.weight[rows] = (token, rest)[group]
        for start in (2 * group * size, (2 * group + 1) * size):
            here = slice(start, start + size)
            matching.q_proj.weight[here][slow] = MATCH * (token[part] + 0.5 * mix @ one_back[part])
            matching.o_proj.weight[:, here] = COPY * (token, rest)[group].T


def _slow_rows(size: int) -> Tensor:
    """Rows of a head that rotary embedding turns slowly: the second half of each of its two halves."""
    quarter = size // 4
    return torch.cat([torch.arange(quarter, 2 * quarter), torch.arange(3 * quarter, size)])


def _looking_back(rates: Tensor, distance: int) -> Tensor:
    """A head vector whose product with the one of distance 0 is largest for keys `distance` tokens before."""
    fast = torch.arange(len(rates)) < LOOK_BACK
    return torch.cat([torch.cos(rates * distance) * fast, -torch.sin(rates * distance) * fast])
