"""The Python of docs/migrating.md runs as its rows say; PEFT's is run by PEFT, and answers as what stands beside it."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from multiflora import LLM, BeamSearchParams, LoRARequest, SamplingParams, StructuredOutputsParams

from .conftest import Server
from .migrating_page import ADAPTERS, CALL, ROOT, UNCHANGED, Row, of_kind

PROMPT = "Hello, my friend."
TOKENS = 12


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(model=ROOT / "examples/demo/base", kv_cache_memory=64 << 20, num_threads=1) as made:
        for name in ADAPTERS:
            made.add_adapter(name, ROOT / "examples/demo/adapters" / name)
        yield made


def run(code: str, names: dict[str, Any]) -> Any:
    """The value of the last expression; None when the code ends in a statement."""
    tree = ast.parse(code)
    last = tree.body[-1]
    if not isinstance(last, ast.Expr):
        exec(compile(tree, "row", "exec"), names)
        return None
    exec(compile(ast.Module(tree.body[:-1], []), "row", "exec"), names)
    return eval(compile(ast.Expression(last.value), "row", "eval"), names)


@of_kind("python")
def test_vllms_python_does_here_what_its_row_says(llm: LLM, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names = {
        "LLM": LLM,
        "SamplingParams": SamplingParams,
        "LoRARequest": LoRARequest,
        "BeamSearchParams": BeamSearchParams,
        "StructuredOutputsParams": StructuredOutputsParams,
        "llm": llm,
        "params": SamplingParams(temperature=0, max_tokens=8),
        "prompts": ["Hello", "SELECT"],
    }
    written = row.written.replace("from vllm", "from multiflora")
    if row.outcome == "runs":
        came = run(written, names)
        assert came is None or came
    else:
        with pytest.raises(Exception, match=r".") as raised:
            run(written, names)
        assert type(raised.value).__name__ == row.outcome or row.outcome in {
            c.__name__ for c in type(raised.value).mro()
        }
    if row.instead != UNCHANGED:
        assert run(row.instead, names)


@pytest.fixture
def peft() -> dict[str, Any]:
    """What the page's left column has: PEFT on transformers, with three adapters, the first of them active."""
    folder = ROOT / "examples/demo"
    first, *others = ADAPTERS
    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(folder / "adapters" / first), first).eval()
    for name in others:
        model.load_adapter(str(folder / "adapters" / name), name)
    untouched = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    return {"PeftModel": PeftModel, "base": untouched, "model": model}


@pytest.mark.slow
@of_kind("peft")
def test_what_stands_beside_pefts_python_answers_the_same(
    llm: LLM, three_adapters: Server, peft: dict[str, Any], row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    tokenizer = llm.get_tokenizer()
    ids = torch.tensor([tokenizer.encode(PROMPT)])
    ends = {"do_sample": False, "max_new_tokens": TOKENS, "eos_token_id": list(llm._model.config.eos_token_ids)}
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pad_token_id": ends["eos_token_id"][0], **ends}
    with torch.no_grad():
        value = run(row.written, {**peft, "inputs": inputs})
        if not isinstance(value, torch.Tensor):
            value = (value or peft["model"]).generate(**inputs)
    expected = tokenizer.decode(value[0, ids.shape[1] :].tolist(), True)
    if call := CALL.fullmatch(row.instead):
        with three_adapters.http() as http:
            answered = http.post(call[2], json=json.loads(call[3]))
        assert answered.is_success, answered.text
        text = answered.json()["choices"][0]["text"]
        assert json.loads(call[3])["prompt"] == PROMPT
    else:
        params = SamplingParams(temperature=0, max_tokens=TOKENS)
        (output,) = run(row.instead, {"LLM": LLM, "llm": llm, "prompt": PROMPT, "params": params})
        text = output.outputs[0].text
    assert text == expected
