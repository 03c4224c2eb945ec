"""Whole engines whose ops are kernels, interpreted where there is no GPU, beside transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BloomConfig
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ASKING = (
    "multiflora_kernels.attention.plan",
    "multiflora_kernels.attention.paged_attention",
)
"""Modules that ask whether a device runs kernels."""
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
