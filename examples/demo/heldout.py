"""Owns the held-out sets: conversations whose prompts or names no training ever sees."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import corpus
import handbook
from chat import ChatEncoder
from tasks import TASKS

CASES = 100
CONTEXT_TOKENS = (200, 600)
SEED = 1


def write(encoder: ChatEncoder, folder: Path) -> None:
    """Writes one JSONL file per task and `rag.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        examples = {example.prompt: example for example in islice(task.examples(SEED, held_out=True), CASES * 3)}
        rows = [_case(example.messages, example.answer, example.tools) for example in examples.values()]
        _write_lines(folder / f"{task.name}.jsonl", rows[:CASES])
    rng = Random(SEED)
    _write_lines(folder / "rag.jsonl", [_context_case(rng, encoder) for _ in range(CASES)])


def _context_case(rng: Random, encoder: ChatEncoder) -> str:
    low, high = CONTEXT_TOKENS
    while True:
        book = handbook.write(rng, rng.randint(10, 40), held_out=True)
        context = corpus.INSTRUCTION + book.text
        if low <= len(encoder.system(context)) <= high:
            fact = rng.choice(book.facts)
            messages = [{"role": "system", "content": context}, {"role": "user", "content": fact.question(rng)}]
            return _case(messages, fact.answer())


def _case(messages: Sequence[dict[str, Any]], expected: str, tools: Sequence[dict[str, Any]] = ()) -> str:
    case = {"messages": messages, "expected": expected}
    return json.dumps({**case, "tools": tools} if tools else case)


def _write_lines(path: Path, rows: list[str]) -> None:
    path.write_text("\n".join(rows) + "\n")
