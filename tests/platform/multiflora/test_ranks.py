"""`LLM(tensor_parallel_size=2)`, and with stages, says what one rank says, also after Ctrl-C; adapters are checked
against the whole model."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.engine.parallel.conftest import start_thread

from multiflora import LLM, SamplingParams
from multiflora_engine.parallel.line import RankLost

DEMO = Path(__file__).parents[3] / "examples" / "demo"
GREEDY = SamplingParams(temperature=0, max_tokens=8)
DIVIDED = [(1, 1), (2, 1), (1, 2), (2, 2)]

LONG_RUN = """
from multiflora import LLM, SamplingParams

def main():
    with LLM({base!r}, device="cpu", num_threads=1, **{ranks!r}) as llm:
        for output in llm.generate(["once"], SamplingParams(max_tokens=1000, ignore_eos=True), stream=True):
            print(output.outputs[0].token_ids, flush=True)

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def _ranks_are_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multiflora_engine.build.start_process", start_thread)


def ranks_of(shards: int, stages: int) -> dict[str, int]:
    return {"tensor_parallel_size": shards, "pipeline_parallel_size": stages}


def divided(shards: int, stages: int) -> LLM:
    adapters = {"sql": DEMO / "adapters" / "sql"}
    return LLM(DEMO / "base", adapters, **ranks_of(shards, stages), device="cpu", num_threads=1)


def answers(llm: LLM) -> list[str]:
    asked = [llm.generate(["Hello"], GREEDY, adapter=adapter, progress=False) for adapter in (None, "sql")]
    return [output.outputs[0].text for outputs in asked for output in outputs]


@pytest.mark.usefixtures("_ranks_are_threads")
def test_several_ranks_answer_as_one() -> None:
    found = []
    for place in DIVIDED:
        with divided(*place) as llm:
            found.append(answers(llm))
    base, adapted = found[0]
    assert base != adapted
    assert found == [[base, adapted]] * len(DIVIDED)


@pytest.fixture(autouse=True)
def _heeds_ctrl_c() -> Iterator[None]:
    """Who starts the tests in the background has them ignore it, and what they start as well."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press_in_step(llm: LLM, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Ctrl-C as all ranks, if there are several, compute the third pass through the layers from now on."""
    decoder, passes = llm._built.device_side.decoder, []
    through = decoder._through_layers

    def interrupted(*arguments: Any) -> Any:
        passes.append(1)
        for _ in range(times if len(passes) == 3 else 0):
            signal.raise_signal(signal.SIGINT)
        return through(*arguments)

    monkeypatch.setattr(decoder, "_through_layers", interrupted)


@pytest.mark.usefixtures("_ranks_are_threads")
@pytest.mark.parametrize("place", DIVIDED)
def test_who_goes_on_after_an_interrupt_is_answered_as_before(
    place: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with divided(*place) as llm:
        before = answers(llm)
        with monkeypatch.context() as patch:
            press_in_step(llm, patch, 1)
            with pytest.raises(KeyboardInterrupt):
                llm.generate(["another", "and one more"], SamplingParams(max_tokens=50), progress=False)
        assert not llm._built.engine.has_work
        assert answers(llm) == before


@pytest.mark.slow
def test_ranks_that_are_left_in_a_step_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C twice does not wait for the step's end."""
    with divided(2, 1) as llm:
        with monkeypatch.context() as patch:
            press_in_step(llm, patch, 2)
            with pytest.raises(KeyboardInterrupt):
                llm.generate("another", SamplingParams(max_tokens=50), progress=False)
        with pytest.raises(RankLost, match="Rank 1 of this engine ended"):
            llm.generate("another", GREEDY, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("place", [(2, 1), (1, 2)])
def test_ctrl_c_ends_a_program_and_all_of_its_ranks(place: tuple[int, int], tmp_path: Path) -> None:
    script = tmp_path / "long_run.py"
    script.write_text(LONG_RUN.format(base=str(DEMO / "base"), ranks=ranks_of(*place)), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0
    ) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        assert program.stdout.readline(), program.stderr.read()
        ranks = psutil.Process(program.pid).children(recursive=True)
        assert ranks
        for process in (program.pid, *(rank.pid for rank in ranks)):  # as a terminal tells all of them
            psutil.Process(process).send_signal(signal.SIGINT)
        said = program.communicate(timeout=60)[1]
    assert program.returncode == -signal.SIGINT
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert not psutil.wait_procs(ranks, 10)[1]
