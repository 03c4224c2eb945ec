"""A decoder of another kind of layer, one with parallel residuals, against plain torch without cache or batching."""

from __future__ import annotations

import torch
from tests.engine.models.cases import CONFIG, batch_of, empty_cache, random_weights

from multiflora_engine.models.blocks.block import Block, ForwardStep, LayerCache
from multiflora_engine.models.blocks.linear import Linear, Sites
from multiflora_engine.models.blocks.sublayers import GatedMlp, SelfAttention
from multiflora_engine.models.config import ModelConfig
from multiflora_engine.models.decoder import Decoder
from multiflora_engine.models.rotary import rotary_tables
from multiflora_engine.models.weights import LayerWeights, ModelWeights
from multiflora_kernels.rms_norm import add_rms_norm


class ParallelBlock:
    """Semantics, for x = norm(residual): residual' = residual + o(attention(x)) + mlp(x)."""

    def __init__(self, weights: LayerWeights, next_norm: torch.Tensor, sites: Sites | None) -> None:
        self.attention, self.o = SelfAttention(CONFIG, weights, sites), Linear(weights.o, sites)
        self.mlp, self.next_norm = GatedMlp(CONFIG.activation, weights, sites), next_norm

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor, step: ForwardStep, cache: LayerCache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        attended = self.attention(x, step, cache)
        if step.kept_rows is not None:
            attended, x, residual = (rows[step.kept_rows] for rows in (attended, x, residual))
        y, delta = self.mlp(x, step.kept_lora)
        total = y + self.o(attended, step.kept_lora)
        return add_rms_norm(total, residual, self.next_norm, CONFIG.rms_norm_eps, delta)


def parallel_blocks(config: ModelConfig, weights: ModelWeights, sites: Sites | None) -> list[Block]:
    first, second = weights.layers
    return [ParallelBlock(first, second.input_norm, sites), ParallelBlock(second, weights.norm, sites)]


def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x * (x.square().mean(-1, keepdim=True) + CONFIG.rms_norm_eps).rsqrt() * weight.double()


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x: [heads, T, D]."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def expected_hidden(weights: ModelWeights, tokens: list[int]) -> torch.Tensor:
    """[T, H] float64, all positions of one sequence at once."""
    targets = {name: tensor.double() for name, tensor in weights.targets().items()}
    residual = targets["model.embed_tokens.weight"][tokens]
    cos, sin = (table[: len(tokens)].double() for table in rotary_tables(CONFIG.rope, 64))
    mask = torch.ones(len(tokens), len(tokens), dtype=torch.bool).tril()
    for layer in range(CONFIG.num_layers):
        prefix = f"model.layers.{layer}."
        w = {name.removeprefix(prefix): tensor for name, tensor in targets.items() if name.startswith(prefix)}
        x = norm(residual, w["input_layernorm.weight"])
        q, k, v = (
            (x @ w[f"self_attn.{n}_proj.weight"].T + w[f"self_attn.{n}_proj.bias"]).view(len(tokens), -1, 32)
            for n in "qkv"
        )
        q, k, v = (part.transpose(0, 1) for part in (q, k, v))
        k, v = (part.repeat_interleave(2, 0) for part in (k, v))
        scores = rotated(q, cos, sin) @ rotated(k, cos, sin).mT * 32**-0.5
        attended = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v
        gate, up = x @ w["mlp.gate_proj.weight"].T, x @ w["mlp.up_proj.weight"].T
        mlp = (gate.sigmoid() * gate * up) @ w["mlp.down_proj.weight"].T
        residual = residual + attended.transpose(0, 1).flatten(1) @ w["self_attn.o_proj.weight"].T + mlp
    return norm(residual, weights.norm)


@torch.inference_mode()
def test_a_family_with_parallel_residuals_is_a_class() -> None:
    """Two sequences in chunks, the second beside a decoded token; only the last rows go on after the last attention."""
    weights, cache = random_weights(), empty_cache()
    decoder = Decoder(CONFIG, weights, rotary_tables(CONFIG.rope, 64), make_blocks=parallel_blocks)
    a, b = [7, 3, 9, 12, 41, 5, 8], [11, 30, 2, 44, 6]
    layers = []
    decoder.between_layers = lambda: layers.append(None)
    decoder.forward(batch_of([a[:6], b[:2]], [0, 0]), cache)
    hidden = decoder.forward(batch_of([a, b], [6, 2], logit_rows=torch.tensor([0, 2, 3])), cache)
    assert len(layers) == 4
    expected = torch.cat([expected_hidden(weights, a)[-1:], expected_hidden(weights, b)[-2:]])
    torch.testing.assert_close(hidden.double(), expected, rtol=1e-4, atol=1e-4)
    logits = decoder.logits(hidden, None)
    torch.testing.assert_close(logits.double(), expected @ weights.base_weight("lm_head").double().T, rtol=0, atol=1e-3)
