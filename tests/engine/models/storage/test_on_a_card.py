"""Quantised checkpoints on a card that is not there: what is allocated, and where the values of a file go."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.engine.models.quantisation.cases import FIXTURES

from gpu.fake.card import FakeCard, fake_card
from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.loader import load_weights
from multiflora_engine.models.storage.choice import choose_storage
from multiflora_engine.models.weights import ModelWeights
from multiflora_kernels.linear.quantised import IntegerForm, QuantisedWeight

CUDA = torch.device("cuda")


@pytest.fixture
def card() -> Iterator[FakeCard]:
    with fake_card(compiles=False) as card:
        yield card


def load(name: str) -> ModelWeights:
    config = load_model_config(FIXTURES / name)
    storage = choose_storage(config, "auto", None, False, CUDA)
    return load_weights(FIXTURES / name, config, torch.bfloat16, CUDA, storage=storage)


@pytest.mark.parametrize(
    ("name", "share"), [("gptq-4", 0.35), ("gptq-4-asym", 0.35), ("awq", 0.35), ("bnb-nf4", 0.35), ("gptq-8", 0.6)]
)
def test_weights_take_on_a_card_what_their_bits_do(name: str, share: float, card: FakeCard) -> None:
    """Of bfloat16's bytes, by what is allocated for them."""
    for layer in load(name).layers:
        for projection in layer.projections:
            weight = projection.weight
            assert isinstance(weight, QuantisedWeight)
            assert all(tensor.is_cuda for tensor in weight.tensors)
            allocated = sum(tensor.untyped_storage().nbytes() for tensor in weight.tensors)
            rows, inputs = weight.shape
            assert allocated == weight.nbytes
            assert allocated <= share * 2 * rows * inputs


def test_inputs_in_another_order(card: FakeCard) -> None:
    """Their order lies on the card, the codes of the file do not."""
    form = IntegerForm(4, 32, order=tuple(reversed(range(64))))
    weight = QuantisedWeight.empty(form, (6, 64), torch.bfloat16, CUDA)
    weight.store_(0, torch.zeros(6, 64, dtype=torch.uint8), torch.ones(6, 2), None)
    assert weight.matmul(torch.ones(3, 64, dtype=torch.bfloat16, device="cuda")).shape == (3, 6)
    assert weight.dequantised_rows(0, 2).is_cuda
