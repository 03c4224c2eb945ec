"""Whole engines whose ops are kernels, interpreted where there is no GPU, beside transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tests.engine.models.quantisation.cases import FIXTURES, gpt_oss_in_mxfp4
from tests.engine.models.quantisation.test_adapters import LINEAR, dense_twin
from tests.engine.parity.test_expert_adapters import QWEN, save_as_modules
from transformers import BloomConfig, Qwen2MoeConfig
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from multiflora_kernels.lora.batched_lora import LoraSegments

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ASKING = (
    "multiflora_kernels.attention.plan",
    "multiflora_kernels.attention.paged_attention",
    "multiflora_kernels.linear.narrow",
    "multiflora_engine.models.blocks.sublayers",
)
"""Modules that ask whether a device runs kernels."""
SHARED = {
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 40,
    "shared_expert_intermediate_size": 48,
}
PROMPTS = [[5, 6, 7, 8, 9], [100, 11]]

pytestmark = pytest.mark.kernel


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of all kernels that are launched, now that all devices run them."""
    for module in ASKING:
        monkeypatch.setattr(f"{module}.runs_kernels", lambda device: True)
    found: set[str] = set()
    for kind in (InterpretedFunction, JITFunction):

        def run(kernel: Any, *arguments: Any, _run: Any = kind.run, **options: Any) -> Any:
            found.add(kernel.fn.__name__)
            return _run(kernel, *arguments, **options)

        monkeypatch.setattr(kind, "run", run)
    return found


def test_slopes(
    launches: set[str], tiny_config: Any, save_model: Any, start_engine: Any, ask: Any, check_answer: Any
) -> None:
    model, folder = save_model(tiny_config(BloomConfig))
    built = start_engine(folder, device=DEVICE)
    for prompt, answer in zip(PROMPTS, ask(built, PROMPTS, max_tokens=3), strict=True):
        check_answer(model, prompt, answer)
    assert "_attention_kernel" in launches


def test_weights_of_four_bits(
    launches: set[str], tmp_path: Path, store: Any, start_engine: Any, ask: Any, check_answer: Any
) -> None:
    """With and without an adapter, in one batch; its norms are those of dequantised rows."""
    torch.manual_seed(5)
    settings = LoraConfig(r=4, target_modules=LINEAR, use_dora=True, init_lora_weights=False)
    adapted = get_peft_model(dense_twin(FIXTURES / "gptq-4"), settings)
    adapted.save_pretrained(str(tmp_path / "adapter"))
    digest = store.add(tmp_path / "adapter").digest
    built = start_engine(FIXTURES / "gptq-4", device=DEVICE, dtype="float32")
    adapted_answer, base_answer = ask(built, PROMPTS, [digest, None], max_tokens=2)
    check_answer(adapted.eval(), PROMPTS[0], adapted_answer)
    with adapted.disable_adapter():
        check_answer(adapted, PROMPTS[1], base_answer)
    assert "_narrow_kernel" in launches


@pytest.mark.parametrize("family", ["qwen2_moe", "gpt_oss"])
def test_mixtures(
    family: str, launches: set[str], tiny_config: Any, save_model: Any, start_engine: Any, ask: Any, check_answer: Any
) -> None:
    """Beside a shared expert, and in 4 bits with biases."""
    if family == "gpt_oss":
        model, folder = gpt_oss_in_mxfp4(tiny_config, save_model)
    else:
        model, folder = save_model(tiny_config(Qwen2MoeConfig, **SHARED))
    built = start_engine(folder, device=DEVICE, dtype="float32", max_model_len=64)
    for prompt, answer in zip(PROMPTS, ask(built, PROMPTS, max_tokens=2), strict=True):
        check_answer(model, prompt, answer)
    assert launches >= {"_few_kernel", "_many_kernel", "_experts_kernel"}


def test_adapters_on_experts(
    launches: set[str],
    tmp_path: Path,
    store: Any,
    tiny_config: Any,
    save_model: Any,
    start_engine: Any,
    ask: Any,
    check_answer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DoRA on all experts of a layer, LoRA on one, and the base, in one batch."""
    build = LoraSegments.build
    monkeypatch.setattr(
        LoraSegments, "build", lambda starts, slots, upload: build(starts, slots, upload or torch.from_numpy)
    )
    config_class, values, mixture, names = QWEN
    base, folder = save_model(tiny_config(config_class, **values))
    kinds = {
        "dora": {"r": 3, "target_modules": r".*layers\.1.*experts.*_proj", "use_dora": True},
        "one": {"r": 5, "target_modules": ["experts.2.down_proj"]},
    }
    oracles = {None: base}
    for name, kind in kinds.items():
        oracle = save_as_modules(base, mixture, names, tmp_path / name, kind)
        oracles[store.add(tmp_path / name).digest] = oracle
    built = start_engine(folder, device=DEVICE, dtype="float32", max_model_len=64)
    answers = ask(built, [PROMPTS[1]] * 3, [*oracles], max_tokens=2)
    for oracle, answer in zip(oracles.values(), answers, strict=True):
        check_answer(oracle, PROMPTS[1], answer)
    assert len({tuple(answer.logprobs) for answer in answers}) == 3
    assert launches >= {"_expert_shrink_kernel", "_expert_expand_kernel"}
