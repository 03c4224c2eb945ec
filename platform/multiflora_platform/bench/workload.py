"""What a load sends: a workload file, or random prompts of a stated shape."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from multiflora_platform.bench.load import LoadRequest

FIRST_PLAIN_TOKEN = 300


@dataclass(frozen=True)
class Shape:
    """`requests` prompts of `prompt_tokens` random ids, of which the first `shared_tokens` are equal in all."""

    requests: int
    prompt_tokens: int
    shared_tokens: int
    output_tokens: int
    seed: int = 0


def random_workload(shape: Shape, models: Sequence[str], vocabulary: int) -> list[LoadRequest]:
    """Requests spread over the models in turn; ids of the tokenizer's first entries (controls, bytes) are left out."""
    rng = random.Random(shape.seed)
    low = min(FIRST_PLAIN_TOKEN, vocabulary // 2)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(low, vocabulary) for _ in range(count)]

    shared = tokens(shape.shared_tokens)
    return [
        LoadRequest(
            model=models[number % len(models)],
            prompt=shared + tokens(shape.prompt_tokens - shape.shared_tokens),
            max_tokens=shape.output_tokens,
        )
        for number in range(shape.requests)
    ]


def read_workload(path: Path, base: str) -> list[LoadRequest]:
    """A JSON list of {prompt: [ids], max_tokens, adapter: name | null, at?: seconds}; null is the base model."""
    return [
        LoadRequest(
            model=entry["adapter"] or base,
            prompt=entry["prompt"],
            max_tokens=entry["max_tokens"],
            at=entry.get("at"),
        )
        for entry in json.loads(path.read_text(encoding="utf-8"))
    ]


def vary(requests: Sequence[LoadRequest], repetition: int, vocabulary: int) -> list[LoadRequest]:
    """The same workload with another first token, so that a repetition cannot hit the cache of the one before."""
    if not repetition:
        return list(requests)
    low = min(FIRST_PLAIN_TOKEN, vocabulary // 2)
    return [
        replace(r, prompt=[low + (r.prompt[0] + 17 * repetition) % (vocabulary - low), *r.prompt[1:]]) for r in requests
    ]
