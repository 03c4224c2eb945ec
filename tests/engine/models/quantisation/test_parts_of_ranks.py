"""What ranks have of a quantised checkpoint is that part of what one engine has of it, in its integers or dense."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.engine.models.quantisation.cases import FIXTURES
from transformers import LlamaConfig

from multiflora_adapters.base_model import Site
from multiflora_engine.core.shard import RankPlace
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.loader import load_weights
from multiflora_engine.models.storage.choice import Storage
from multiflora_engine.models.weights import ModelWeights
from multiflora_kernels.linear.quantised import QuantisedWeight

CPU = torch.device("cpu")


def part_of(whole: ModelWeights, site: Site) -> torch.Tensor:
    """What a rank's site should hold, of the whole weights."""
    weight, part = whole.base_weight(site.name), site.part
    assert part is not None
    if part.columns is not None:
        return weight[:, slice(*part.columns)]
    assert part.rows is not None
    return torch.cat([weight[first:end] for first, end in part.rows])


def sites_of(config: ModelConfig) -> list[Site]:
    return [site for layer in range(config.num_layers) for site in config.layer_sites(layer)] + [config.head_site]


@pytest.mark.parametrize("name", sorted(path.parent.name for path in FIXTURES.glob("*/config.json")))
@pytest.mark.parametrize("storage", ["dense", "as_stored"])
def test_parts_are_those_of_the_whole(name: str, storage: Storage) -> None:
    folder = FIXTURES / name
    config = load_model_config(folder)
    whole = load_weights(folder, config, torch.float32, CPU, storage=storage)
    for rank in (0, 1):
        own = config.shard(rank, 2)
        weights = load_weights(folder, own, torch.float32, CPU, storage=storage)
        for site in sites_of(own):
            torch.testing.assert_close(weights.base_weight(site.name), part_of(whole, site), rtol=0, atol=1e-6)


@pytest.mark.parametrize("storage", ["dense", "as_stored"])
def test_stages_read_their_own_layers_alone(storage: Storage) -> None:
    folder = FIXTURES / "gptq-4"
    config = load_model_config(folder)
    parts = config, config.at(RankPlace.of(0, 1, 2)), config.at(RankPlace.of(1, 1, 2))
    num_read: dict[int, int] = {}
    whole, *stages = (
        load_weights(
            folder,
            part,
            torch.float32,
            CPU,
            lambda done, total, place=place: num_read.update({place: done}),  # type: ignore[misc]
            storage=storage,
        )
        for place, part in enumerate(parts)
    )
    assert num_read[0] == num_read[1] + num_read[2]
    assert whole.num_bytes == sum(stage.num_bytes for stage in stages)
    for number, stage in enumerate(stages):
        for site in config.layer_sites(number):
            assert torch.equal(stage.base_weight(site.name), whole.base_weight(site.name))
    assert [stage.own_ends is None for stage in stages] == [False, True]


def test_groups_of_inputs_are_kept_where_they_are_whole() -> None:
    """Two groups of 32 inputs of o are one for each rank; of the 96 inputs of down each has one and a half."""
    folder = FIXTURES / "gptq-4"
    weights = load_weights(folder, load_model_config(folder).shard(1, 2), torch.float32, CPU, storage="as_stored")
    (layer, _) = weights.layers
    kept = [isinstance(one.weight, QuantisedWeight) for one in (layer.qkv, layer.o, *layer.mlp.projections)]
    assert kept == [True, True, True, False]


@pytest.mark.parametrize("is_tied", [False, True])
def test_rows_are_rounded_as_a_whole(is_tied: bool, tiny_config: Any, save_model: Any) -> None:
    """int8 at load has one scale for a row, also where a rank has some of its columns, or rows of a tied head."""
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    _, folder = save_model(tiny_config(LlamaConfig, **heads, vocab_size=301, tie_word_embeddings=is_tied))
    config = load_model_config(folder)
    whole = load_weights(folder, config, torch.float32, CPU, storage="int8_weight_only")
    for rank in (0, 1):
        own = config.shard(rank, 2)
        weights = load_weights(folder, own, torch.float32, CPU, storage="int8_weight_only")
        for site in sites_of(own):
            assert not weights.is_exact(site.name)
            assert torch.equal(weights.base_weight(site.name), part_of(whole, site))
