"""A decoder whose layers have parallel residuals, against plain torch without cache or batching; and what it moves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.engine.models.cases import CONFIG, batch_of, empty_cache, random_weights

from multiflora_engine.models import decoder as decoder_module
from multiflora_engine.models.decoder import Decoder
from multiflora_engine.models.families.form import ModuleNames
from multiflora_engine.models.rotary import rotary_tables
from multiflora_engine.models.weights import ModelWeights
from multiflora_kernels.rope.move import KvMoves, Turn, move_kv, turn_by

PARALLEL = replace(CONFIG, form=replace(CONFIG.form, is_parallel=True, modules=ModuleNames(mlp_norm=None)))


def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x * (x.square().mean(-1, keepdim=True) + CONFIG.norm_eps).rsqrt() * weight.double()


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x: [heads, T, D]."""
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def expected_hidden(weights: ModelWeights, tokens: list[int]) -> torch.Tensor:
    """[T, H] float64, all positions of one sequence at once."""
    targets = {name: target.tensors[0].double() for name, target in weights.targets().items()}
    residual = targets["model.embed_tokens.weight"][tokens]
    cos, sin = (table[: len(tokens)].double() for table in rotary_tables(CONFIG.ropes[0], 64))
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
    return norm(residual, weights.ends.norm.weight)


@torch.inference_mode()
def test_a_family_with_parallel_residuals() -> None:
    """Two sequences in chunks, the second beside a decoded token; only the last rows go on after the last attention."""
    weights, cache = random_weights(PARALLEL), empty_cache()
    decoder = Decoder(PARALLEL, weights, [rotary_tables(CONFIG.ropes[0], 64)])
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


@torch.inference_mode()
def test_what_is_moved_in_parts_is_what_is_moved_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many tokens as are to be copied at once, and a rotation found once for all layers."""
    decoder = Decoder(PARALLEL, random_weights(PARALLEL), [rotary_tables(CONFIG.ropes[0], 64)])
    caches, calls = [empty_cache(), empty_cache()], list[tuple[str, int]]()

    def moved(keys: torch.Tensor, values: torch.Tensor, moves: KvMoves, turn: Turn) -> None:
        calls.append(("move", len(moves.sources)))
        move_kv(keys, values, moves, turn)

    def turned(distances: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Turn:
        calls.append(("turn", len(distances)))
        return turn_by(distances, cos, sin)

    monkeypatch.setattr(decoder_module, "move_kv", moved)
    monkeypatch.setattr(decoder_module, "turn_by", turned)
    sources, distances = torch.arange(11), torch.arange(11) % 3
    for cache, most in zip(caches, (11, 4), strict=True):
        monkeypatch.setattr(decoder_module, "_MOST_MOVES", most)
        decoder.forward(batch_of([[*range(11)]], [0]), cache)
        calls.clear()
        decoder.move(cache, sources, sources + 13, distances)
    assert calls == [call for size in (4, 4, 3) for call in (("turn", size), ("move", size), ("move", size))]
    for one, other in zip(*([*cache.keys, *cache.values] for cache in caches), strict=True):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())
