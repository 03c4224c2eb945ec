"""A mix of adapters says what PEFT's weighted adapter says: beside its parts and the base, cached by its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from peft import PeftModel
from tests.engine.parity.test_adapters import KINDS, save_adapter
from transformers import LlamaConfig, Qwen2Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from multiflora_adapters.mix import MixPart, mix_digest
from multiflora_adapters.store import ArtifactStore
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams

WEIGHTS = {"plain": 0.7, "all_linear": -0.5, "embeddings": 1.25}


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
    store = ArtifactStore(tmp_path / "artifacts")
    digests: dict[str, str] = {}
    oracle: Any = None
    for name in WEIGHTS:
        save_adapter(folder, tmp_path / name, KINDS[name])
        digests[name] = store.add(tmp_path / name).digest
        if oracle is None:
            model = AutoModelForCausalLM.from_pretrained(folder)
            oracle = PeftModel.from_pretrained(model, tmp_path / name, adapter_name=name).eval()
        else:
            oracle.load_adapter(tmp_path / name, adapter_name=name)
    oracle.add_weighted_adapter(list(WEIGHTS), list(WEIGHTS.values()), "mix", combination_type="cat")
    oracle.set_adapter("mix")

    mixed = mix_digest([MixPart(digests[name], weight) for name, weight in WEIGHTS.items()])
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


def test_a_mix_that_cannot_be_made_fails_its_own_request(
    tiny_config: Any, save_model: Any, start_engine: Any, make_adapters: Any, tmp_path: Path
) -> None:
    _, folder = save_model(tiny_config(LlamaConfig))
    digests = make_adapters([12, 8])
    parts = {}
    for kind in ("dora", "lora_bias"):
        save_adapter(folder, tmp_path / kind, KINDS[kind])
        parts[kind] = ArtifactStore(tmp_path / "artifacts").add(tmp_path / kind).digest
    wide = mix_digest([MixPart(digest, 0.5) for digest in digests])
    scaled, biased = (mix_digest([MixPart(part, 0.5), MixPart(digests[1], 1.0)]) for part in parts.values())
    engine = start_engine(folder).engine
    for name, digest in (("wide", wide), ("dora", scaled), ("biased", biased), ("base", None)):
        params = SamplingParams(max_tokens=2, temperature=0.0)
        engine.add_request(GenerateRequest(id=name, prompt_token_ids=[5, 6], params=params, adapter_digest=digest))
    endings = {}
    while engine.has_work:
        for delta in engine.step():
            endings[delta.request_id] = delta.failure.message if delta.failure else None
    assert endings["base"] is None
    assert "rank 20" in endings["wide"]
    assert "DoRA" in endings["dora"]
    assert "biases" in endings["biased"]
