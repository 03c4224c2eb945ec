"""Whatever the schema, whatever the model: what comes out at temperature 1 parses and validates.

MULTIFLORA_RANDOM_SCHEMAS=500 pytest tests/platform/structured/test_random_schemas.py    (the default is fewer)
"""

from __future__ import annotations

import json
import os
from functools import partial
from random import Random

import pytest
from tests.platform.structured.schemas import check, random_schema

from multiflora import LLM, SamplingParams, StructuredOutputsParams
from multiflora_platform.messages.message import MessageFormat
from multiflora_platform.messages.tool_formats import MISTRAL_NAMES, TOOL_FORMATS, Tool
from multiflora_platform.messages.tool_readers import make_reader

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
    assert len({output.outputs[0].text for output in outputs}) > COUNT // 2
    for schema, output in zip(schemas, outputs, strict=True):
        (answer,) = output.outputs
        assert answer.finish_reason == "stop", (answer.finish_reason, answer.error, schema, answer.text[:200])
        check(answer.text, schema, json.loads(answer.text))


NATIVE = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "kind": {"type": "string", "enum": ["a", "b\n", "3"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 99},
        "flags": {"type": "array", "items": {"type": ["boolean", "null"]}, "maxItems": 3},
    },
    "required": ["kind", "days"],
}


@pytest.mark.parametrize(("kind", "sign"), [("pythonic", "[tool"), ("qwen3_coder", "<function=tool")])
def test_random_weights_call_tools_as_the_model_does(llm: LLM, kind: str, sign: str) -> None:
    """Where the schema can be followed so."""
    form = TOOL_FORMATS[kind]
    schemas = {"tool": NATIVE, "tool_b": {"type": "object", "properties": {}}}
    tag = {"format": form.calls([Tool(name, schema) for name, schema in schemas.items()], False)}
    params = [
        SamplingParams(
            temperature=1.0, seed=seed, max_tokens=200, structured_outputs=StructuredOutputsParams(structural_tag=tag)
        )
        for seed in range(COUNT)
    ]
    seen = set()
    for output in llm.generate(["Hello"] * COUNT, params, progress=False):
        (answer,) = output.outputs
        if answer.finish_reason == "length":  # a free text may go on and on
            continue
        assert answer.finish_reason == "stop", answer.error
        assert answer.text.removeprefix("<tool_call>\n").startswith(sign)
        message = MessageFormat(tools=partial(make_reader, form, schemas, False)).read(answer.text)
        assert message.calls
        assert message.content is None
        for call in message.calls:
            seen.add(call.name)
            check(answer.text, schemas[call.name], json.loads(call.arguments))
    assert seen == {"tool", "tool_b"}


@pytest.mark.parametrize("kind", ["hermes", "llama3_json", "mistral", "mistral_names", "pythonic", "qwen3_coder"])
def test_random_weights_call_tools_with_arguments_that_follow_random_schemas(llm: LLM, kind: str) -> None:
    form = MISTRAL_NAMES if kind == "mistral_names" else TOOL_FORMATS[kind]
    offers = [
        [Tool(f"tool_{n}", random_schema(Random(f"{seed}/{n}"))) for n in range(1 + seed % 3)]
        for seed in range(COUNT // 3)
    ]
    params = [
        SamplingParams(
            temperature=1.0,
            seed=seed,
            max_tokens=3000,
            structured_outputs=StructuredOutputsParams(structural_tag={"format": form.calls(tools, seed % 2 == 0)}),
        )
        for seed, tools in enumerate(offers)
    ]
    outputs = llm.generate(["Hello"] * len(offers), params, progress=False)
    for tools, output in zip(offers, outputs, strict=True):
        (answer,) = output.outputs
        assert answer.finish_reason == "stop", (answer.finish_reason, answer.error, answer.text[:200])
        schemas = {tool.name: tool.parameters for tool in tools}
        message = MessageFormat(tools=partial(make_reader, form, schemas, False)).read(answer.text)
        assert message.calls
        assert message.content is None
        for call in message.calls:
            check(answer.text, schemas[call.name], json.loads(call.arguments))
