"""Whatever the schema, whatever the model: what comes out at temperature 1 parses and validates.

MULTIFLORA_RANDOM_SCHEMAS=500 pytest tests/platform/structured/test_random_schemas.py    (the default is fewer)
"""

from __future__ import annotations

import json
import os
from random import Random

from multiflora import LLM, SamplingParams, StructuredOutputsParams

from .schemas import check, random_schema

COUNT = int(os.environ.get("MULTIFLORA_RANDOM_SCHEMAS", "60"))


def test_random_weights_follow_random_schemas(llm: LLM) -> None:
    schemas = [random_schema(Random(seed)) for seed in range(COUNT)]
    params = [
        SamplingParams(
            temperature=1.0,
            seed=seed,
            max_tokens=3000,
            structured_outputs=StructuredOutputsParams(json=schema, disable_any_whitespace=seed % 2 == 0),
        )
        for seed, schema in enumerate(schemas)
    ]
    outputs = llm.generate(["Hello"] * COUNT, params, progress=False)
    for schema, output in zip(schemas, outputs, strict=True):
        (answer,) = output.outputs
        assert answer.finish_reason == "stop", (answer.finish_reason, answer.error, schema, answer.text[:200])
        check(answer.text, schema, json.loads(answer.text))
