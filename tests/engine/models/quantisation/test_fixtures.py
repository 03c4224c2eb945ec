"""Checkpoints that public tools have quantised say what those tools say: weight by weight, and token by token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.loader import load_weights

FIXTURES = sorted(path.parent for path in (Path(__file__).parent / "fixtures").glob("*/config.json"))


@pytest.fixture(params=FIXTURES, ids=lambda folder: str(folder.name))
def fixture(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.param
    return folder


def test_weights_equal_those_of_the_tool_to_the_rounding_of_its_type(fixture: Path) -> None:
    weights = load_weights(fixture, load_model_config(fixture), torch.float32, torch.device("cpu"))
    reference = load_file(fixture / "reference.safetensors")
    assert len(reference) == 3
    for name, expected in reference.items():
        found = weights.base_weight(name.removesuffix(".weight"))
        assert found.abs().max() > 0.1
        rounding = torch.finfo(expected.dtype).eps
        torch.testing.assert_close(found, expected.float(), rtol=rounding, atol=rounding * 1e-3)


def test_greedy_tokens_equal_those_of_the_dequantised_model(fixture: Path, start_engine: Any, ask: Any) -> None:
    expected = json.loads((fixture / "expected.json").read_text())
    engine = start_engine(fixture, dtype="float32", dequantize=True)
    rounded = {tensor.dtype for tensor in load_file(fixture / "reference.safetensors").values()}.pop()
    config = load_model_config(fixture)
    for site in (site for layer in range(2) for site in config.layer_sites(layer)):
        weight = engine.weights.base_weight(site.name)
        weight.copy_(weight.to(rounded))  # one tool dequantises to bfloat16 alone
    answers = ask(engine, [case["prompt"] for case in expected], max_tokens=12)
    assert [answer.tokens for answer in answers] == [case["tokens"] for case in expected]


def test_greedy_tokens_are_the_same_where_its_integers_are_kept(fixture: Path, start_engine: Any, ask: Any) -> None:
    """On what fits into one step, on a prompt in chunks, and on the few rows of decode steps."""
    prompts = [case["prompt"] for case in json.loads((fixture / "expected.json").read_text())] + [list(range(2, 90))]
    kept, dense = (
        ask(start_engine(fixture, dtype="float32", dequantize=dequantize), prompts, max_tokens=8)
        for dequantize in (False, True)
    )
    for one, other in zip(kept, dense, strict=True):
        assert one.tokens == other.tokens
        assert one.logprobs == pytest.approx(other.logprobs, abs=2e-3)
