"""What lm-eval's `local-completions` sends and reads: log-likelihoods of token arrays, equal to transformers and PEFT.

The request is lm-eval's own: a list of token arrays, echo, logprobs 1, max_tokens 1 (older releases) or 0, seed,
temperature 0; its greedy check compares floats for equality.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from peft import PeftModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

DEMO = Path(__file__).parents[3] / "examples" / "demo"
MIX = "mix"
PARTS: list[dict[str, Any]] = [{"name": "sql", "weight": 0.7}, {"name": "pirate", "weight": 0.5}]
TEXTS = [
    ("Show the name of all products", " with a price above 40."),
    ("SELECT name FROM", " products"),
    ("Please send 3 blue lamps to our office in Oslo.", " Rilo Tamenberg"),
    ("Show", " the price of all products"),
]


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    torch.set_num_threads(1)
    base = AutoModelForCausalLM.from_pretrained(DEMO / "base", dtype=torch.float32).eval()
    adapted = AutoModelForCausalLM.from_pretrained(DEMO / "base", dtype=torch.float32)
    sql = PeftModel.from_pretrained(adapted, DEMO / "adapters" / "sql").eval()
    return {"multiflora-demo": base, "sql": sql, MIX: mixed()}


def mixed() -> Any:
    """What MIX asks for, as PEFT adds adapters up."""
    base = AutoModelForCausalLM.from_pretrained(DEMO / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, DEMO / "adapters" / PARTS[0]["name"], adapter_name=PARTS[0]["name"])
    for part in PARTS[1:]:
        model.load_adapter(DEMO / "adapters" / part["name"], adapter_name=part["name"])
    names, weights = [part["name"] for part in PARTS], [part["weight"] for part in PARTS]
    model.add_weighted_adapter(names, weights, adapter_name=MIX, combination_type="cat")
    model.set_adapter(MIX)
    return model.eval()


@pytest.fixture(scope="module")
def rows(http: httpx.Client) -> list[tuple[list[int], int]]:
    """(context and continuation as ids, length of the context), as lm-eval's encode_pair makes them."""

    def encode(text: str) -> list[int]:
        ids: list[int] = http.post("/tokenize", json={"prompt": text}).json()["tokens"]
        return ids

    return [(encode(context + rest), len(encode(context))) for context, rest in TEXTS]


@pytest.mark.parametrize("max_tokens", [0, 1])
@pytest.mark.parametrize("model", ["multiflora-demo", "sql", MIX])
def test_loglikelihoods_equal_peft(
    http: httpx.Client, models: dict[str, Any], rows: list[tuple[list[int], int]], model: str, max_tokens: int
) -> None:
    body = {
        **({"model": "multiflora-demo", "adapters": PARTS} if model == MIX else {"model": model}),
        "prompt": [ids for ids, _ in rows],
        "temperature": 0,
        "max_tokens": max_tokens,
        "logprobs": 1,
        "seed": 1234,
        "echo": True,
    }
    choices = http.post("/v1/completions", json=body).raise_for_status().json()["choices"]
    for choice, (ids, start) in zip(sorted(choices, key=lambda choice: choice["index"]), rows, strict=True):
        logprobs = choice["logprobs"]
        assert len(logprobs["token_logprobs"]) == len(ids) + max_tokens
        end = len(ids)
        found = sum(logprobs["token_logprobs"][start:end])
        is_greedy = all(
            value == max(top.values())
            for value, top in zip(
                logprobs["token_logprobs"][start:end], logprobs["top_logprobs"][start:end], strict=True
            )
        )
        with torch.no_grad():
            expected = models[model](torch.tensor([ids])).logits[0].log_softmax(-1)[start - 1 : end - 1]
        chosen = torch.tensor(ids[start:end], dtype=torch.long)
        assert found == pytest.approx(float(expected[torch.arange(len(chosen)), chosen].sum()), abs=1e-3)
        assert is_greedy == bool((expected.argmax(-1) == chosen).all())


def test_generate_until(http: httpx.Client) -> None:
    """The generate tasks: a text prompt, stop strings in `stop`, a seed."""
    prompt = json.loads((DEMO / "adapters.json").read_text(encoding="utf-8"))[0]["demo_prompt"]
    body = {"model": "sql", "prompt": [prompt], "max_tokens": 30, "temperature": 0, "stop": ["\n\n", "e"], "seed": 1}
    text = http.post("/v1/completions", json=body).raise_for_status().json()["choices"][0]["text"]
    assert "e" not in text
