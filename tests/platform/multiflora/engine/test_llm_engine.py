"""A program that keeps its own loop: requests come between steps, texts are LLM's, and ids are freed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from multiflora import LLM, EngineArgs, LLMEngine, RequestOutput
from multiflora.lora.request import LoRARequest
from multiflora.sampling_params import RequestOutputKind, SamplingParams

DEMO = Path(__file__).parents[4] / "examples" / "demo"
SIZES: dict[str, Any] = {"kv_cache_memory": 32 << 20, "max_model_len": 512, "num_threads": 1, "max_loras": 2}
ADAPTERS = {name: str(DEMO / "adapters" / name) for name in ("sql", "pirate")}
LORAS = [LoRARequest(name, number, path) for number, (name, path) in enumerate(ADAPTERS.items(), start=1)]
GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
PROMPT = "Show the name of all products."


@pytest.fixture(scope="module")
def engine() -> Iterator[LLMEngine]:
    with LLMEngine.from_engine_args(EngineArgs(model=str(DEMO / "base"), enable_lora=True, **SIZES)) as made:
        yield made


def drain(engine: LLMEngine) -> list[RequestOutput]:
    outputs = []
    while engine.has_unfinished_requests():
        outputs += engine.step()
    return outputs


def test_requests_that_come_one_per_step_have_the_texts_of_a_batch(engine: LLMEngine) -> None:
    waiting: list[tuple[str, LoRARequest | None]] = [(PROMPT, None), *((PROMPT, lora) for lora in LORAS), ("Hi", None)]
    finished: dict[str, RequestOutput] = {}
    number = 0
    while waiting or engine.has_unfinished_requests():
        if waiting:
            prompt, lora = waiting.pop(0)
            engine.add_request(str(number), prompt, GREEDY, lora_request=lora)
            number += 1
        finished |= {output.request_id: output for output in engine.step() if output.finished}
    assert engine.step() == []
    with LLM(DEMO / "base", ADAPTERS, **SIZES) as llm:
        batch = llm.generate([PROMPT] * 3 + ["Hi"], GREEDY, adapter=[None, "sql", "pirate", None], progress=False)
    assert [finished[str(i)].outputs[0].text for i in range(4)] == [output.outputs[0].text for output in batch]
    assert [finished[str(i)].lora_request for i in range(4)] == [None, *LORAS, None]


def test_outputs_grow_are_new_or_come_once_by_their_kind(engine: LLMEngine) -> None:
    for kind in RequestOutputKind:
        params = SamplingParams(temperature=0.0, max_tokens=5, ignore_eos=True, output_kind=kind)
        engine.add_request(kind.name, PROMPT, params)
    outputs = drain(engine)
    tokens = {
        kind: [o.outputs[0].token_ids for o in outputs if o.request_id == kind.name] for kind in RequestOutputKind
    }
    (whole,) = tokens[RequestOutputKind.FINAL_ONLY]
    assert tokens[RequestOutputKind.CUMULATIVE] == [whole[:count] for count in range(1, 6)]
    assert tokens[RequestOutputKind.DELTA] == [[token] for token in whole]


def test_an_aborted_request_says_nothing_more_and_frees_its_id(engine: LLMEngine) -> None:
    engine.add_request("a", PROMPT, GREEDY)
    engine.step()
    with pytest.raises(ValueError, match="'a' is in use"):
        engine.add_request("a", PROMPT, GREEDY)
    engine.abort_request(["a", "unknown"])
    assert not engine.has_unfinished_requests()
    engine.add_request("a", "Hi", GREEDY)
    assert engine.get_num_unfinished_requests() == 1
    assert {output.prompt for output in drain(engine)} == {"Hi"}


@pytest.mark.parametrize(
    ("prompt", "params", "error"),
    [
        (3, GREEDY, TypeError),
        ([10**9], GREEDY, ValueError),
        ("x" * 5000, GREEDY, ValueError),
        ("x", SamplingParams(best_of=2, output_kind=RequestOutputKind.DELTA), ValueError),
    ],
)
def test_what_cannot_run_is_refused_and_leaves_nothing(
    engine: LLMEngine, prompt: Any, params: SamplingParams, error: type[Exception]
) -> None:
    with pytest.raises(error):
        engine.add_request("bad", prompt, params)
    assert not engine.has_unfinished_requests()


def test_beams_come_at_their_end(engine: LLMEngine) -> None:
    params = SamplingParams(n=2, use_beam_search=True, temperature=0.0, max_tokens=4)
    engine.add_request("beams", PROMPT, params)
    (output,) = drain(engine)
    assert output.finished
    assert len(output.outputs) == 2
