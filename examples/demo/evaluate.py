"""Measures the demo: exact match of every model on every held-out set. Knows nothing of how the models were trained.

python examples/demo/evaluate.py --url http://127.0.0.1:8000/v1 --key KEY
python examples/demo/evaluate.py --backend transformers
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).resolve().parent
CONTEXT_SET = "rag"  # the base model's own task; every other set belongs to the adapter of its name
MAX_TOKENS = 128

Messages = list[dict[str, Any]]
Matrix = dict[str, dict[str, float]]  # set -> model -> share of exact answers


@dataclass(frozen=True)
class Case:
    """A conversation, the tools on offer in it, and the only right answer to it, as the chat template writes it."""

    messages: Messages
    expected: str
    tools: list[dict[str, Any]] | None = None


Answerer = Callable[[str | None, Sequence[Case]], list[str]]  # adapter (None: the base), cases -> answers


def load_sets(folder: Path = HERE / "eval", limit: int | None = None) -> dict[str, list[Case]]:
    """The held-out sets by name, each cut to `limit` cases."""
    return {
        path.stem: [Case(**json.loads(line)) for line in path.read_text().splitlines()[:limit]]
        for path in sorted(folder.glob("*.jsonl"))
    }


def measure(answer: Answerer, sets: dict[str, list[Case]], base_name: str = "base") -> Matrix:
    """Asks every model every set; the set of context questions goes to the base model only."""
    adapters = [name for name in sets if name != CONTEXT_SET]
    matrix: Matrix = {}
    for name, cases in sets.items():
        matrix[name] = {base_name: exact_share(answer, None, cases)}
        if name != CONTEXT_SET:
            matrix[name] |= {adapter: exact_share(answer, adapter, cases) for adapter in adapters}
    return matrix


def exact_share(answer: Answerer, adapter: str | None, cases: Sequence[Case]) -> float:
    """The share of `cases` that the model answers exactly."""
    answers = answer(adapter, cases)
    return sum(got == case.expected for got, case in zip(answers, cases, strict=True)) / len(cases)


def http_answerer(url: str, key: str, base_model: str, concurrency: int = 16) -> Answerer:
    """Asks an OpenAI-compatible endpoint such as `http://127.0.0.1:8000/v1`, greedily. Raises httpx.HTTPStatusError."""
    headers = {"Authorization": f"Bearer {key}"}

    def ask(client: httpx.Client, model: str, case: Case) -> str:
        body = {"model": model, "messages": case.messages, "temperature": 0, "max_tokens": MAX_TOKENS}
        response = client.post("/chat/completions", json={**body, "tools": case.tools} if case.tools else body)
        return _as_written(response.raise_for_status().json()["choices"][0]["message"])

    def answer(adapter: str | None, cases: Sequence[Case]) -> list[str]:
        with (
            httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=300) as client,
            ThreadPoolExecutor(concurrency) as pool,
        ):
            return list(pool.map(lambda case: ask(client, adapter or base_model, case), cases))

    return answer


def _as_written(message: dict[str, Any]) -> str:
    """A message's text, its tool calls back in the model's own form."""
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    calls = [
        f'<tool_call>\n{{"name": {json.dumps(f["name"])}, "arguments": {f["arguments"]}}}\n</tool_call>'
        for f in functions
    ]
    return "\n".join([message["content"], *calls] if message["content"] else calls)


def transformers_answerer(folder: Path = HERE, device: str = "cpu", batch_size: int = 50) -> Answerer:
    """Answers in process with transformers and PEFT in float32, from `folder`/base and `folder`/adapters."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder / "base", padding_side="left")
    base: Any = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    model: Any = base.to(device)
    for path in sorted((folder / "adapters").glob("*/")):
        if model is base:
            model = PeftModel.from_pretrained(base, path, adapter_name=path.name)
        else:
            model.load_adapter(path, adapter_name=path.name)

    def generate(cases: Sequence[Case]) -> list[str]:
        prompts = [
            tokenizer.apply_chat_template(case.messages, tools=case.tools, add_generation_prompt=True, tokenize=False)
            for case in cases
        ]
        inputs = tokenizer(prompts, padding=True, return_tensors="pt", add_special_tokens=False).to(device)
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=MAX_TOKENS, do_sample=False)
        answers: list[str] = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return answers

    def answer(adapter: str | None, cases: Sequence[Case]) -> list[str]:
        batches = [cases[start : start + batch_size] for start in range(0, len(cases), batch_size)]
        if adapter is None and model is not base:
            with model.disable_adapter():
                return [text for batch in batches for text in generate(batch)]
        if adapter is not None:
            model.set_adapter(adapter)
        return [text for batch in batches for text in generate(batch)]

    return answer


def table(matrix: Matrix) -> str:
    """The matrix as Markdown, percentages, one row per set."""
    models = max((list(row) for row in matrix.values()), key=len)
    lines = ["| task | " + " | ".join(models) + " |", "|---|" + "---:|" * len(models)]
    for name, row in matrix.items():
        cells = [f"{row[model]:.0%}" if model in row else "" for model in models]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Exact match on the demo's held-out sets.")
    parser.add_argument("--backend", choices=["http", "transformers"], default="http")
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--key", default="", help="API key")
    parser.add_argument("--base-model", default="multiflora-demo", help="the base model's served name")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--limit", type=int, help="cases per set")
    parser.add_argument("--folder", type=Path, default=HERE)
    args = parser.parse_args()
    if args.backend == "http":
        answer = http_answerer(args.url, args.key, args.base_model, args.concurrency)
    else:
        answer = transformers_answerer(args.folder)
    print(table(measure(answer, load_sets(args.folder / "eval", args.limit))))


if __name__ == "__main__":
    main()
