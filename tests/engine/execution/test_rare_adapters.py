"""On a card that is not there: an adapter that brings rare tensors has no kernel compiled while requests wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from gpu.fake.card import FakeCard, fake_card
from gpu.llama import model_config
from gpu.parts.smoke import TINY
from gpu.steps import Traffic
from multiflora_adapters.weights import HostAdapter
from multiflora_adapters.zero_adapter import zero_adapter
from multiflora_engine import build as build_module
from multiflora_engine.build import assemble_engine
from multiflora_engine.models.allocation import allocate_weights
from multiflora_engine.protocol.config import SizedConfig
from multiflora_kernels.linear.quantised import IntegerForm

PROMPTS = (3, 17, 200)


@pytest.fixture
def card() -> Iterator[FakeCard]:
    with fake_card(compiles=False) as card:
        yield card


def start(max_loras: int = 4, shape: dict[str, Any] = TINY, form: IntegerForm | None = None) -> Traffic:
    """Adapters by their digests: "plain" on embedding and head, too, "dora" with magnitudes and biases everywhere,
    and on experts.
    form: of weights that are not dense."""
    model = model_config(shape)
    weights = allocate_weights(model, torch.bfloat16, torch.device("cuda"), lambda sites: form)
    base = model.base_model("tiny", digest="tiny")

    def load(digest: str) -> HostAdapter:
        linears = [linear for layer in base.sparse_layers for linear in layer.linears] if digest == "dora" else []
        return zero_adapter(base.sites.values(), 8, weights.dtype, has_vectors=digest == "dora", linears=linears)

    sizes = {"kv_cache_memory": 8 << 20, "max_num_seqs": 4, "max_num_batched_tokens": 256, "max_model_len": 512}
    config = SizedConfig(model_path="", artifact_root="", device="cuda", max_loras=max_loras, max_lora_rank=8, **sizes)
    return Traffic(assemble_engine(config, model, weights, base, load))


def serve(traffic: Traffic) -> None:
    for adapters in (["plain", "plain", None], ["dora", "dora", None], ["plain", "dora", None]):
        for length, adapter in zip(PROMPTS, adapters, strict=True):
            traffic.add(length, 4, adapter)
        traffic.drain()
        traffic.built.use_idle_moment()


MIXTURE = TINY | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "head_dim": 64,
    "num_experts": 8,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 96,
}
"""An expert gets more tokens on average of the longest prompt than of what adapters' kernels are compiled with."""


@pytest.mark.parametrize(
    ("shape", "form"),
    [(TINY, None), (TINY, IntegerForm(4, 32)), (MIXTURE, None), (MIXTURE, IntegerForm(4, 32))],
    ids=["dense", "four_bits", "mixture", "mixture_of_four_bits"],
)
def test_all_kernels_are_there_before_the_first_request(
    card: FakeCard, shape: dict[str, Any], form: IntegerForm | None
) -> None:
    traffic = start(shape=shape, form=form)
    assert traffic.built.device_side.graphs is not None
    compiled = set(card.forms)
    card.launches.clear()
    serve(traffic)
    assert ("_expert_expand_kernel" in card.launches) == (shape is MIXTURE)
    assert {name for name, *_ in card.forms - compiled} == set()
    assert card.races == []


def test_adapters_that_take_turns_in_one_slot_race_with_nothing(card: FakeCard) -> None:
    """In pieces, while the base decodes and the step before still reads what is overwritten."""
    traffic = start(max_loras=1)
    residency = traffic.built.residency
    residency._bytes_per_poll = 50_000
    for digest in ("plain", "dora", "plain"):
        traffic.add(3, 30)
        traffic.add(17, 4, digest)
    traffic.drain()
    assert residency.evictions >= 1
    residency.load("dora")
    for _ in range(200):
        residency.poll()
        residency.wait(0.01)
        if residency.state("dora") not in ("disk", "loading"):
            break
    residency.unload("dora")
    serve(traffic)
    assert card.races == []


def test_without_it_requests_would_wait(card: FakeCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "compile_for_rare_adapters", lambda *arguments: None)
    traffic = start()
    compiled = set(card.forms)
    serve(traffic)
    assert {name for name, *_ in card.forms - compiled}
