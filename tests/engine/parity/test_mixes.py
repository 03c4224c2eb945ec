"""A mix of adapters says what PEFT's weighted adapter says: beside its parts and the base, cached by its recipe."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraModel
from tests.engine.parity.test_adapters import KINDS, LINEAR, save_adapter
from transformers import LlamaConfig, Qwen2Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from multiflora_adapters.mixes.mixing import random_numbers
from multiflora_adapters.mixes.recipe import Combination, Mix, MixPart, mix_digest
from multiflora_adapters.store import ArtifactStore
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams

WEIGHTS = {"plain": 0.7, "all_linear": -0.5, "embeddings": 1.25}


EQUAL_RANKS = {"all_linear": 0.8, "scaled": -0.6, "some_layers": 1.1}
RANK_4: dict[str, dict[str, Any]] = {
    "all_linear": {"r": 4, "lora_alpha": 6, "target_modules": LINEAR},
    "scaled": {"r": 4, "use_rslora": True, "target_modules": ["embed_tokens", "lm_head", "q_proj", "o_proj"]},
    "some_layers": {"r": 4, "target_modules": ["o_proj", "gate_proj"], "layers_to_transform": [1]},
}


def weighted(
    folder: Path, tmp_path: Path, kinds: dict[str, dict[str, Any]], weights: dict[str, float], **how: Any
) -> tuple[Any, dict[str, str]]:
    """PEFT's weighted adapter, active, and the digests of its parts in the artifact store."""
    store = ArtifactStore(tmp_path / "artifacts")
    digests: dict[str, str] = {}
    oracle: Any = None
    for name in weights:
        save_adapter(folder, tmp_path / name, kinds[name])
        digests[name] = store.add(tmp_path / name).digest
        if oracle is None:
            model = AutoModelForCausalLM.from_pretrained(folder)
            oracle = PeftModel.from_pretrained(model, tmp_path / name, adapter_name=name).eval()
        else:
            oracle.load_adapter(tmp_path / name, adapter_name=name)
    oracle.add_weighted_adapter(list(weights), list(weights.values()), "mix", **how)
    oracle.set_adapter("mix")
    return oracle, digests


def seeded(model: Any, method: Any, combination: str, adapters: Any, weights: Any, target: Any, *rest: Any) -> Any:
    name = next(name for name, module in model.model.named_modules() if module is target)
    with torch.random.fork_rng():
        torch.set_rng_state(random_numbers(5, name).get_state())
        return method(model, combination, adapters, weights, target, *rest)


def recipe(digests: dict[str, str], weights: dict[str, float], *how: Any) -> str:
    return mix_digest(Mix(tuple(MixPart(digests[name], weight) for name, weight in weights.items()), *how))


@pytest.mark.parametrize("config_class", [LlamaConfig, Qwen2Config])
def test_a_mix_equals_pefts(
    config_class: Any,
    tiny_config: Any,
    save_model: Any,
    start_engine: Any,
    ask: Any,
    check_answer: Any,
    prompts: Any,
    tmp_path: Path,
) -> None:
    base, folder = save_model(tiny_config(config_class))
    oracle, digests = weighted(folder, tmp_path, KINDS, WEIGHTS, combination_type="cat")
    mixed = recipe(digests, WEIGHTS)
    engine = start_engine(folder, max_model_len=256)
    rows = [(digest, prompt) for prompt in prompts for digest in (None, mixed, digests["plain"])]
    for turn in range(2):
        answers = ask(engine, [prompt for _, prompt in rows], [digest for digest, _ in rows])
        for (digest, prompt), answer in zip(rows, answers, strict=True):
            if digest == mixed:
                check_answer(oracle, prompt, answer)
                assert bool(answer.cached_tokens) >= (turn == 1 and len(prompt) > 16)
            elif digest is None:
                check_answer(base, prompt, answer)


@pytest.mark.parametrize(
    ("combination", "density"),
    [("linear", 1.0), ("ties", 0.4), ("magnitude_prune", 0.3), ("svd", 1.0), ("dare_linear", 0.5), ("dare_ties", 0.6)],
)
def test_other_combinations_equal_pefts(
    combination: Combination,
    density: float,
    tiny_config: Any,
    save_model: Any,
    start_engine: Any,
    ask: Any,
    check_answer: Any,
    prompts: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, folder = save_model(tiny_config(LlamaConfig))
    # Here what DARE keeps follows from seed and site; PEFT draws for all sites from one row of random numbers.
    method = LoraModel._generalized_task_arithmetic_weighted_adapter
    monkeypatch.setattr(LoraModel, method.__name__, functools.partialmethod(seeded, method))
    how = {"combination_type": combination, "density": density}
    oracle, digests = weighted(folder, tmp_path, RANK_4, EQUAL_RANKS, **how)
    mixed = recipe(digests, EQUAL_RANKS, combination, density, 5)
    engine = start_engine(folder, max_model_len=256)
    rows = [(digest, prompt) for prompt in prompts for digest in (None, mixed)]
    answers = ask(engine, [prompt for _, prompt in rows], [digest for digest, _ in rows])
    for (digest, prompt), answer in zip(rows, answers, strict=True):
        check_answer(oracle if digest else base, prompt, answer)


def test_a_mix_that_cannot_be_made_fails_its_own_request(
    tiny_config: Any, save_model: Any, start_engine: Any, make_adapters: Any, tmp_path: Path
) -> None:
    _, folder = save_model(tiny_config(LlamaConfig))
    digests = make_adapters([12, 8])
    parts = {}
    for kind in ("dora", "lora_bias", "own_head"):
        save_adapter(folder, tmp_path / kind, KINDS[kind])
        parts[kind] = ArtifactStore(tmp_path / "artifacts").add(tmp_path / kind).digest
    halves = tuple(MixPart(digest, 0.5) for digest in digests)
    wide = mix_digest(Mix(halves))
    scaled, biased, headed = (
        mix_digest(Mix((MixPart(part, 0.5), MixPart(digests[1], 1.0)))) for part in parts.values()
    )
    unequal = mix_digest(Mix(halves, "ties", 0.5))
    engine = start_engine(folder).engine
    asked = {"wide": wide, "dora": scaled, "biased": biased, "headed": headed, "unequal": unequal, "base": None}
    for name, digest in asked.items():
        params = SamplingParams(max_tokens=2, temperature=0.0)
        engine.add_request(GenerateRequest(id=name, prompt_token_ids=[5, 6], params=params, adapter_digest=digest))
    endings, codes = {}, set()
    while engine.has_work:
        for delta in engine.step():
            endings[delta.request_id] = delta.failure.message if delta.failure else None
            codes |= {delta.failure.code} if delta.failure else set()
    assert endings["base"] is None
    assert codes == {"invalid_request"}
    assert "rank 20" in endings["wide"]
    assert "DoRA" in endings["dora"]
    assert "biases" in endings["biased"]
    assert re.search("the ranks differ: .* has 8, .* has 12", endings["unequal"])
    assert "head of its own" in endings["headed"]
