"""LoRA on experts as PEFT's older versions wrote it: a module for each expert, and parameters read the other way round.

The first are made by PEFT itself, on linears named as transformers 4 had them; the oracle is the base with what PEFT
merges into them.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tests.engine.parity.test_adapters import EXPERTS, save_adapter
from transformers import MixtralConfig, PreTrainedModel, Qwen3MoeConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from multiflora_adapters.store import ArtifactStore

MIXTRAL = (MixtralConfig, {"num_local_experts": 4}, "block_sparse_moe", ("w1", "w3", "w2"))
QWEN = (Qwen3MoeConfig, {**EXPERTS, "head_dim": 64}, "mlp", ("gate_proj", "up_proj", "down_proj"))
NAMES = ["w1", "w2", "w3", "gate_proj", "up_proj", "down_proj"]
KINDS: dict[str, dict[str, Any]] = {
    "all": {"r": 4, "target_modules": ["q_proj", "gate", *NAMES]},
    "dora": {"r": 3, "target_modules": "all-linear", "use_dora": True},
    "patterns": {
        "r": 4,
        "target_modules": [*NAMES, "o_proj"],
        "layers_to_transform": [1],
        "rank_pattern": {r"experts\.1\.\w+": 2, "o_proj": 7, r"experts\.3\.(w2|down_proj)": 9},
        "use_rslora": True,
    },
    "one": {"r": 5, "target_modules": ["experts.2.w2", "experts.2.down_proj"]},
}


class Tree(torch.nn.Module):
    """Linears by dotted names."""

    def put(self, path: str, linear: torch.nn.Linear) -> None:
        first, _, rest = path.partition(".")
        if not rest:
            self.add_module(first, linear)
            return
        if first not in self._modules:
            self.add_module(first, Tree())
        child = self.get_submodule(first)
        assert isinstance(child, Tree)
        child.put(rest, linear)


def linears(model: PreTrainedModel, mixture: str, names: tuple[str, ...]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every linear of a mixture's layers by its name in transformers 4, and the weight, a view."""
    for place, layer in enumerate(model.model.layers):
        path = f"model.layers.{place}"
        for name in ("q_proj", "o_proj"):
            yield f"{path}.self_attn.{name}", getattr(layer.self_attn, name).weight.data
        yield f"{path}.{mixture}.gate", layer.mlp.gate.weight.data
        for number, (ups, down) in enumerate(
            zip(layer.mlp.experts.gate_up_proj, layer.mlp.experts.down_proj, strict=True)
        ):
            for name, weight in zip(names, (*ups.data.chunk(2), down.data), strict=True):
                yield f"{path}.{mixture}.experts.{number}.{name}", weight


def save_as_modules(
    model: PreTrainedModel, mixture: str, names: tuple[str, ...], folder: Path, kind: dict[str, Any]
) -> PreTrainedModel:
    """An adapter of random weights in files as of transformers 4. Returns the model with it merged."""
    tree = Tree()
    for path, weight in linears(model, mixture, names):
        linear = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        linear.weight.data = weight.clone()
        tree.put(path, linear)
    torch.manual_seed(len(folder.name))
    adapted = get_peft_model(tree, LoraConfig(lora_alpha=16, **kind))
    for name, parameter in adapted.named_parameters():
        if "magnitude" in name:
            parameter.data *= 1 + 0.3 * torch.rand_like(parameter)
        elif "lora_" in name:
            parameter.data = torch.randn_like(parameter) * 0.15
    adapted.save_pretrained(folder)
    merged, found = copy.deepcopy(model), adapted.merge_and_unload()
    for path, weight in linears(merged, mixture, names):
        weight.copy_(found.get_submodule(path).weight.data)
    return merged


@pytest.mark.parametrize("family", [MIXTRAL, QWEN], ids=["mixtral", "qwen3_moe"])
def test_modules_of_single_experts_alone_and_in_one_batch(
    family: Any, tmp_path: Path, tiny_config: Any, save_model: Any, start_engine: Any, ask: Any, check_answer: Any,
    prompts: Any, store: ArtifactStore,
) -> None:  # fmt: skip
    config_class, values, mixture, names = family
    base, folder = save_model(tiny_config(config_class, **values))
    oracles: dict[str | None, PreTrainedModel] = {None: base}
    for name, kind in KINDS.items():
        oracle = save_as_modules(base, mixture, names, tmp_path / name, kind)
        oracles[store.add(tmp_path / name).digest] = oracle
    attention = save_adapter(folder, tmp_path / "attention", {"r": 8, "target_modules": ["q_proj", "v_proj"]})
    oracles[store.add(tmp_path / "attention").digest] = attention
    engine = start_engine(folder, max_model_len=256)
    rows = [(digest, prompts[i]) for i in (2, 4) for digest in oracles]
    answers = ask(engine, [prompt for _, prompt in rows], [digest for digest, _ in rows], prompt_logprobs=0)
    for (digest, prompt), answer in zip(rows, answers, strict=True):
        check_answer(oracles[digest], prompt, answer)
    changed = {
        digest: answer.tokens for (digest, _), answer in zip(rows[len(oracles) :], answers[len(oracles) :], strict=True)
    }
    assert all(changed[digest] != changed[None] for digest in oracles if digest is not None)
    (alone,) = ask(engine, [prompts[3]], [[*oracles][2]], prompt_logprobs=0)
    check_answer(oracles[[*oracles][2]], prompts[3], alone)


def test_peft_reads_files_of_modules_as_we_do(
    tmp_path: Path, tiny_config: Any, save_model: Any, start_engine: Any, ask: Any, check_answer: Any, prompts: Any,
    store: ArtifactStore,
) -> None:  # fmt: skip
    """Its own conversion, where it has one: all three linears of the experts, or none."""
    _, _, mixture, names = MIXTRAL
    base, folder = save_model(tiny_config(MixtralConfig, num_local_experts=4))
    save_as_modules(
        base, mixture, names, tmp_path / "all", {"r": 4, "target_modules": ["q_proj", "gate", "w1", "w2", "w3"]}
    )
    oracle = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "all").eval()
    digest = store.add(tmp_path / "all").digest
    (answer,) = ask(start_engine(folder, max_model_len=256), [prompts[4]], [digest], prompt_logprobs=0)
    check_answer(oracle, prompts[4], answer)


def swapped(folder: Path, base: PreTrainedModel, rank: int) -> PreTrainedModel:
    """Files of PEFT 0.17 and 0.18, which took [E, out, in] for [E, in, out]. Returns the base, merged as they did."""
    tensors, merged = {}, copy.deepcopy(base)
    for place, layer in enumerate(merged.model.layers):
        path = f"base_model.model.model.layers.{place}.mlp.experts"
        for infix, weight in ((".base_layer", layer.mlp.experts.gate_up_proj), ("", layer.mlp.experts.down_proj)):
            experts, first, second = weight.shape
            a, b = torch.randn(experts * rank, first) * 0.15, torch.randn(second, rank * experts) * 0.15
            delta = torch.einsum("ore,eri->eio", b.reshape(second, rank, experts), a.reshape(experts, rank, first))
            weight.data += delta * 2.0
            tensors |= {f"{path}{infix}.lora_A.weight": a, f"{path}{infix}.lora_B.weight": b}
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": None}
    config["target_parameters"] = ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return merged


def test_parameters_that_peft_read_the_other_way_round(
    tmp_path: Path, tiny_config: Any, save_model: Any, start_engine: Any, ask: Any, check_answer: Any, prompts: Any,
    store: ArtifactStore,
) -> None:  # fmt: skip
    base, folder = save_model(tiny_config(Qwen3MoeConfig, **EXPERTS, head_dim=64))
    merged = swapped(tmp_path / "swapped", base, rank=3)
    digest = store.add(tmp_path / "swapped").digest
    engine = start_engine(folder, max_model_len=256)
    for oracle, answer in zip(
        (merged, base), ask(engine, [prompts[4]] * 2, [digest, None], prompt_logprobs=0), strict=True
    ):
        check_answer(oracle, prompts[4], answer)


def test_experts_take_turns_in_the_room_for_one(
    tmp_path: Path, tiny_config: Any, save_model: Any, start_engine: Any, ask: Any, check_answer: Any, prompts: Any,
    store: ArtifactStore,
) -> None:  # fmt: skip
    """Their memory is what --adapter-matrix-memory says, and is counted in bytes that follow from the rank."""
    base, folder = save_model(tiny_config(MixtralConfig, num_local_experts=4))
    oracles: dict[str | None, PreTrainedModel] = {None: base}
    for i in range(3):
        kind = {"r": 4, "target_modules": [], "target_parameters": ["mlp.experts.down_proj"]}
        oracle = save_adapter(folder, tmp_path / f"own{i}", kind)
        oracles[store.add(tmp_path / f"own{i}").digest] = oracle
    # Two layers, four experts: A [4, 96] and B [4, 64] in float32; offsets and ranks of five in int32.
    taken = 2 * (4 * 4 * (96 + 64) * 4 + 2 * 5 * 4)
    engine = start_engine(folder, max_model_len=256, adapter_matrix_memory=2 * taken)
    rows = [(digest, prompts[i]) for i in (1, 2) for digest in oracles]
    answers = ask(engine, [prompt for _, prompt in rows], [digest for digest, _ in rows])
    assert engine.engine.stats().adapter_evictions > 0, "the third one does not fit beside the others"
    assert {row.bytes for row in engine.residency.snapshot()} == {taken}
    for (digest, prompt), answer in zip(rows, answers, strict=True):
        check_answer(oracles[digest], prompt, answer)


def test_files_of_modules_have_the_names_of_transformers_4(tmp_path: Path, tiny_config: Any) -> None:
    """What the tests above rest on."""
    base = AutoModelForCausalLM.from_config(tiny_config(MixtralConfig, num_local_experts=4))
    save_as_modules(base, "block_sparse_moe", ("w1", "w3", "w2"), tmp_path / "one", KINDS["one"])
    names = load_file(tmp_path / "one" / "adapter_model.safetensors").keys()
    assert "base_model.model.model.layers.1.block_sparse_moe.experts.2.w2.lora_A.weight" in names
