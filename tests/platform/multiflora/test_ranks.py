"""`LLM(tensor_parallel_size=2)`, and with stages, says what one rank says; adapters are checked against the whole
model."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.engine.parallel.conftest import start_thread

from multiflora import LLM, SamplingParams

DEMO = Path(__file__).parents[3] / "examples" / "demo"


def answers(shards: int, stages: int) -> list[str]:
    adapters = {"sql": DEMO / "adapters" / "sql"}
    ranks = {"tensor_parallel_size": shards, "pipeline_parallel_size": stages}
    with LLM(DEMO / "base", adapters, **ranks, device="cpu", num_threads=1) as llm:
        asked = [llm.generate(["Hello"], SamplingParams(temperature=0, max_tokens=8), adapter=a) for a in (None, "sql")]
    return [output.outputs[0].text for outputs in asked for output in outputs]


def test_several_ranks_answer_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiflora_engine.build.start_process", start_thread)
    base, adapted = answers(1, 1)
    assert base != adapted
    for shards, stages in ((2, 1), (1, 2), (2, 2)):
        assert answers(shards, stages) == [base, adapted]
