"""Tiny random models of every family, engines on them, and transformers as the oracle of what they must say."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from multiflora_adapters.store import ArtifactStore
from multiflora_engine.build import BuiltEngine, build_engine
from multiflora_engine.execution import device_side as device_side_module
from multiflora_engine.execution import dummy_batch as dummy_module
from multiflora_engine.protocol.config import EngineConfig
from multiflora_engine.protocol.requests import GenerateRequest, PositionLogprobs
from multiflora_engine.protocol.sampling_params import SamplingParams

VOCAB = 300
TOLERANCE = 2e-3


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_digest_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digests of passing models do not belong in the user's cache."""
    monkeypatch.setattr("multiflora_kernels.runtime.machine_cache._path", lambda name: tmp_path / f"{name}.json")


@dataclass
class Answer:
    """What one request got: greedy tokens with log-probabilities, and those of its prompt when asked for."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    prompt_logprobs: list[PositionLogprobs | None] | None = None
    cached_tokens: int = 0
    finish_reason: str | None = None


SaveModel = Callable[[PreTrainedConfig], tuple[PreTrainedModel, Path]]
StartEngine = Callable[..., BuiltEngine]
Ask = Callable[..., list[Answer]]
CheckAnswer = Callable[[PreTrainedModel, list[int], Answer], None]


@pytest.fixture
def save_model(tmp_path: Path) -> SaveModel:
    """(the model in transformers, its folder) of a config; weights are large enough for clear winners."""

    def save(config: PreTrainedConfig) -> tuple[PreTrainedModel, Path]:
        torch.manual_seed(7)
        config.initializer_range = 0.2
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias") or "norm" in name or "ln_" in name:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        folder = tmp_path / f"model-{config.model_type}"
        model.save_pretrained(folder)
        return model, folder

    return save


@pytest.fixture
def start_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartEngine]:
    """Engines whose KV cache is full of NaN at first, so that reading what nobody wrote shows."""
    allocate = device_side_module.allocate_kv_cache

    def poisoned(*arguments: Any) -> Any:
        cache = allocate(*arguments)
        for tensor in (*cache.keys, *cache.values):
            tensor.view(torch.uint8).fill_(255)  # NaN in every float type, in int8 of every scale
        return cache

    for module in (device_side_module, dummy_module):
        monkeypatch.setattr(module, "allocate_kv_cache", poisoned)
    built: list[BuiltEngine] = []

    def start(folder: Path, **overrides: Any) -> BuiltEngine:
        values: dict[str, Any] = {
            "model_path": str(folder),
            "artifact_root": str(tmp_path / "artifacts"),
            "kv_cache_memory": 4 << 20,
            "max_num_seqs": 16,
            "max_num_batched_tokens": 48,
            "max_loras": 16,
            "max_lora_rank": 16,
            "num_threads": 1,
            "device": "cpu",
        }
        built.append(build_engine(EngineConfig(**(values | overrides))))
        return built[-1]

    yield start
    for engine in built:
        engine.close()


@pytest.fixture
def ask() -> Ask:
    """ask(engine, prompts, adapters=..., **sampling): one greedy request each, all at once; answers in order."""
    serial = iter(range(1_000_000))

    def run(
        built: BuiltEngine, prompts: list[list[int]], adapters: list[str | None] | None = None, **sampling: Any
    ) -> list[Answer]:
        params = SamplingParams(**({"temperature": 0.0, "max_tokens": 6, "logprobs": 0, "ignore_eos": True} | sampling))
        answers: dict[str, Answer] = {}
        for prompt, adapter in zip(prompts, adapters or [None] * len(prompts), strict=True):
            name = str(next(serial))
            answers[name] = Answer()
            built.engine.add_request(
                GenerateRequest(id=name, prompt_token_ids=prompt, params=params, adapter_digest=adapter)
            )
        while built.engine.has_work:
            for delta in built.engine.step():
                assert delta.failure is None, delta.failure
                answer = answers[delta.request_id]
                answer.tokens += delta.token_ids
                answer.logprobs += [position.chosen.logprob for position in delta.logprobs or []]
                answer.prompt_logprobs = delta.prompt_logprobs or answer.prompt_logprobs
                answer.cached_tokens = max(answer.cached_tokens, delta.cached_tokens)
                answer.finish_reason = delta.finish_reason or answer.finish_reason
        return list(answers.values())

    return run


@pytest.fixture
def check_answer() -> CheckAnswer:
    """Fails unless transformers, reading prompt and answer, would have chosen each token, equally sure of it.

    Semantics: tokens[i] = argmax of the logits after prompt + tokens[:i], which is greedy generation by induction.
    """

    def check(model: PreTrainedModel, prompt: list[int], answer: Answer) -> None:
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer.tokens])).logits[0].float()
        expected = logits.log_softmax(-1)
        after = expected[len(prompt) - 1 : -1]
        assert answer.tokens == after.argmax(-1).tolist()
        found = torch.tensor(answer.logprobs)
        assert (found - after.max(-1).values).abs().max() < TOLERANCE
        if answer.prompt_logprobs is not None:
            assert answer.prompt_logprobs[0] is None
            rest = [position for position in answer.prompt_logprobs if position is not None]
            assert [position.chosen.token_id for position in rest] == prompt[1:]
            predicted = expected[torch.arange(len(prompt) - 1), torch.tensor(prompt[1:], dtype=torch.long)]
            errors = torch.tensor([position.chosen.logprob for position in rest]) - predicted
            assert not len(rest) or errors.abs().max() < TOLERANCE

    return check


@pytest.fixture
def prompts() -> list[list[int]]:
    """Lengths at and around block borders; the last two share a prefix."""
    generator = torch.Generator().manual_seed(3)
    made = [torch.randint(0, VOCAB, (n,), generator=generator).tolist() for n in (1, 15, 16, 17, 33, 200)]
    return [*made, made[-1][:64] + made[1]]


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    """The one that `start_engine`'s engines read."""
    return ArtifactStore(tmp_path / "artifacts")


@pytest.fixture
def make_adapters(tmp_path: Path, store: ArtifactStore) -> Callable[[list[int]], list[str]]:
    """The digests of new adapters of these ranks for tiny Llamas, strong enough to change what the model says."""
    serial = iter(range(1000))

    def make(ranks: list[int]) -> list[str]:
        return [
            store.add(_write_adapter(tmp_path / f"lora{i}", i, rank)).digest
            for rank, i in zip(ranks, serial, strict=False)
        ]

    return make


def _write_adapter(folder: Path, seed: int, rank: int, hidden: int = 64) -> Path:
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(2):
        for module in ("q_proj", "o_proj"):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{module}.lora_"
            tensors[prefix + "A.weight"] = torch.randn(rank, hidden, generator=generator) * 0.3
            tensors[prefix + "B.weight"] = torch.randn(hidden, rank, generator=generator) * 0.3
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": ["q_proj", "o_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def tiny(config_class: type[PreTrainedConfig], **overrides: Any) -> PreTrainedConfig:
    """A two-layer config of hidden size 64; heads of 32, a size that native kernels know, or as `overrides` say."""
    values: Mapping[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
    }
    return config_class(**(dict(values) | overrides))


@pytest.fixture
def tiny_config() -> Callable[..., PreTrainedConfig]:
    return tiny


@pytest.fixture(autouse=True)
def _quiet_oracle() -> Iterator[None]:
    """transformers warns of what these tests do on purpose (unusual RoPE values, tiny models)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="transformers|peft|huggingface_hub")
        yield
