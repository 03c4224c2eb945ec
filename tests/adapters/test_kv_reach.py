"""What an adapter's KV is known by: by what reaches it alone, and by all of it where that is not certain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from multiflora_adapters.base_model import BaseModel
from multiflora_adapters.facts import read_facts
from multiflora_adapters.mixes.recipe import Mix, MixPart, mix_digest, mixed_kv_digest
from multiflora_adapters.weights import HostAdapter

A, B, C = "a" * 64, "b" * 64, "c" * 64
CERTAIN = {"plain", "all_linear", "rslora", "patterns", "layers_pattern", "expression", "excluded"}
CERTAIN |= {"float16", "bfloat16"}

Tensors = dict[str, torch.Tensor]


def known_by(adapter: HostAdapter) -> str | None:
    assert adapter.kv_reach is not None
    return adapter.kv_reach.digest


def test_validation_and_loading_find_the_same(kind: str, peft_adapter: Any, load: Any, base: BaseModel) -> None:
    """Embeddings, biases, DoRA and trained rows count as all of the adapter."""
    adapter = load(peft_adapter(kind))
    assert read_facts(peft_adapter(kind), base).kv_digest == known_by(adapter)
    if kind == "some_layers":  # queries and the MLP of the last layer
        assert known_by(adapter) is None
    else:
        assert (known_by(adapter) != adapter.digest) == (kind in CERTAIN)


def scale(*parts: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        found = [name for name in tensors if all(part in name for part in parts)]
        assert found
        for name in found:
            tensors[name] *= 2

    return change


@pytest.mark.parametrize(
    ("where", "is_equal"),
    [
        (("layers.1.self_attn.q_proj",), True),
        (("layers.1.mlp.down_proj.lora_B",), True),
        (("layers.1.self_attn.o_proj.lora_A",), True),
        (("layers.1.self_attn.k_proj.lora_A",), False),
        (("layers.1.self_attn.v_proj.lora_B",), False),
        (("layers.0.mlp.up_proj.lora_A",), False),
        (("layers.0.self_attn.q_proj",), False),
    ],
)
def test_versions_are_equal_where_what_differs_reaches_nothing(
    where: tuple[str, ...], is_equal: bool, broken: Callable[..., Path], peft_adapter: Any, load: Any
) -> None:
    original, changed = load(peft_adapter("all_linear")), load(broken("all_linear", tensors=scale(*where)))
    assert original.digest != changed.digest
    assert (known_by(original) == known_by(changed)) == is_equal


@pytest.mark.parametrize("config", [{"lora_alpha": 9}, {"use_rslora": True}])
def test_scaling_belongs_to_it(config: Any, broken: Callable[..., Path], peft_adapter: Any, load: Any) -> None:
    assert known_by(load(peft_adapter("all_linear"))) != known_by(load(broken("all_linear", config)))


def test_equal_bytes_of_another_type_are_another_part(
    broken: Callable[..., Path], peft_adapter: Any, load: Any
) -> None:
    def reinterpret(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            tensors[name] = tensor.view(torch.bfloat16)

    plain, other = load(peft_adapter("float16")), load(broken("float16", tensors=reinterpret))
    assert known_by(plain) != known_by(other)


@pytest.mark.parametrize(
    ("parts", "how", "expected"),
    [
        ({A: None, B: None}, (), None),
        ({A: None, B: None}, ("ties", 0.5), None),
        ({A: C, B: None}, (), f"{C}*0.5"),
        ({A: C, B: C}, (), f"{C}*0.5,{C}*0.5"),
        ({A: C, B: None}, ("svd",), "all of it"),
    ],
)
def test_a_sum_is_known_by_what_of_its_parts_reaches(parts: Any, how: Any, expected: str | None) -> None:
    mix = Mix(tuple(MixPart(digest, 0.5) for digest in parts), *how)
    assert mixed_kv_digest(mix, parts) == (mix_digest(mix) if expected == "all of it" else expected)


def test_beside_what_reaches_nothing_a_part_is_itself() -> None:
    mix = Mix((MixPart(A, 1.0), MixPart(B, 0.3)))
    assert mixed_kv_digest(mix, {A: C, B: None}) == C
