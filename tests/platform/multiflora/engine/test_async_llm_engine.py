"""The asynchronous engine on the demo's model: texts as LLM's, requests left, aborted and lost with their process."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multiflora import (
    LLM,
    AdapterRejected,
    AsyncEngineArgs,
    AsyncLLMEngine,
    EngineDeadError,
    LoRARequest,
    PoolingParams,
    RequestOutput,
    RequestOutputKind,
    SamplingParams,
    StructuredOutputsParams,
)
from multiflora.engine import arg_utils, async_llm_engine
from multiflora.usage.usage_lib import UsageContext
from multiflora_engine.models.errors import ModelError
from multiflora_engine.protocol.messages import EngineStats, Status

DEMO = Path(__file__).parents[4] / "examples" / "demo"
ADAPTERS = {name: str(DEMO / "adapters" / name) for name in ("sql", "pirate", "triage")}
REQUESTS = {name: LoRARequest(name, number, path) for number, (name, path) in enumerate(ADAPTERS.items(), start=1)}
SIZES: dict[str, Any] = {"kv_cache_memory": 32 << 20, "max_model_len": 2048, "num_threads": 1, "max_loras": 3}
GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
LONG = SamplingParams(temperature=0.0, max_tokens=400, ignore_eos=True)
# The engine goes on while this process collects garbage, which takes it a while.
ENDLESS = SamplingParams(temperature=0.0, max_tokens=2000, ignore_eos=True)
PROMPT = "Show the name of all products."


def make_engine(**options: Any) -> AsyncLLMEngine:
    args = {"model": str(DEMO / "base"), **SIZES, **options}
    return AsyncLLMEngine.from_engine_args(AsyncEngineArgs(**args), usage_context=UsageContext.ENGINE_CONTEXT)


@pytest.fixture(scope="module")
def engine() -> Iterator[AsyncLLMEngine]:
    """Made outside any event loop, used by one for each test."""
    made = make_engine()
    yield made
    made.shutdown()


async def answer(engine: AsyncLLMEngine, prompt: Any, id: str, params: SamplingParams = GREEDY, **more: Any) -> str:
    async for output in engine.generate(prompt, params, id, **more):
        if output.finished:
            return output.outputs[0].text
    raise AssertionError("no output was the last one")


async def status(engine: AsyncLLMEngine) -> Status:
    return await engine._engine.ask(lambda calls: calls.status())


async def until(engine: AsyncLLMEngine, holds: Callable[[EngineStats], bool]) -> EngineStats:
    for _ in range(2000):
        stats = (await status(engine)).stats
        if holds(stats):
            return stats
        await asyncio.sleep(0.01)
    raise AssertionError(f"it never came: {stats}")


async def idle(engine: AsyncLLMEngine) -> EngineStats:
    """Once nothing runs any more and no block is held."""
    return await until(engine, lambda now: not now.running + now.waiting and now.free_blocks == now.num_blocks)


def is_alive(pid: int | str) -> bool:
    return Path(f"/proc/{pid}").exists()


async def first_of(stream: AsyncIterator[RequestOutput]) -> RequestOutput:
    async for output in stream:
        return output
    raise AssertionError("no output came")


def test_an_engine_made_outside_loops_serves_one_loop_after_another(engine: AsyncLLMEngine) -> None:
    assert async_llm_engine.AsyncLLMEngine is AsyncLLMEngine
    assert arg_utils.AsyncEngineArgs is AsyncEngineArgs
    texts = [asyncio.run(answer(engine, "Hello", "test-request")) for _ in range(3)]
    assert texts[0]
    assert set(texts) == {texts[0]}
    assert engine.is_running
    assert not engine.errored


def test_64_coroutines_of_mixed_adapters_give_the_texts_of_llm(engine: AsyncLLMEngine) -> None:
    names = [[None, *ADAPTERS][i % 4] for i in range(64)]
    prompts = [f"{i}. {PROMPT}" for i in range(64)]
    with LLM(DEMO / "base", ADAPTERS, **SIZES) as llm:
        expected = [o.outputs[0].text for o in llm.generate(prompts, GREEDY, adapter=names, progress=False)]

    async def all_of_them() -> list[str]:
        return await asyncio.gather(
            *(
                answer(engine, prompt, str(i), lora_request=REQUESTS[name] if name else None)
                for i, (prompt, name) in enumerate(zip(prompts, names, strict=True))
            )
        )

    assert asyncio.run(all_of_them()) == expected


async def test_outputs_grow_until_the_last_one_is_finished(engine: AsyncLLMEngine) -> None:
    outputs = [output async for output in engine.generate(PROMPT, LONG, "grows", REQUESTS["sql"])]
    assert len(outputs) > 3
    assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]
    assert {(output.request_id, output.prompt, output.adapter) for output in outputs} == {("grows", PROMPT, "sql")}
    for before, after in itertools.pairwise(outputs):
        assert after.outputs[0].text.startswith(before.outputs[0].text)
        assert len(after.outputs[0].token_ids) > len(before.outputs[0].token_ids)
    assert outputs[-1].outputs[0].finish_reason == "length"
    assert len(outputs[-1].outputs[0].token_ids) == 400


async def test_outputs_may_hold_what_is_new_or_come_once(engine: AsyncLLMEngine) -> None:
    whole = await answer(engine, PROMPT, "whole", LONG)
    fields: dict[str, Any] = {"temperature": 0.0, "max_tokens": 400, "ignore_eos": True}

    async def outputs(kind: RequestOutputKind | int, **more: Any) -> list[RequestOutput]:
        params = SamplingParams(output_kind=kind, **{**fields, **more})  # type: ignore[arg-type]
        return [output async for output in engine.generate(PROMPT, params, "kind")]

    pieces = await outputs(RequestOutputKind.DELTA)
    assert len(pieces) > 3
    assert "".join(piece.outputs[0].text for piece in pieces) == whole
    assert sum(len(piece.outputs[0].token_ids) for piece in pieces) == 400
    assert [piece.finished for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    for kind in (RequestOutputKind.FINAL_ONLY, 2):
        (last,) = await outputs(kind)
        assert (last.finished, last.outputs[0].text) == (True, whole)
    with pytest.raises(ValueError, match="best_of needs output_kind"):
        await outputs(RequestOutputKind.DELTA, best_of=2, temperature=1)
    with pytest.raises(ValueError, match=r"output_kind must be one of RequestOutputKind\.CUMULATIVE"):
        await outputs(7)


async def test_a_prompt_may_be_text_or_ids_under_a_key_or_bare(engine: AsyncLLMEngine) -> None:
    ids = (await engine.get_tokenizer()).encode(PROMPT)
    forms: list[Any] = [PROMPT, ids, {"prompt": PROMPT}, {"prompt_token_ids": ids}]
    texts = await asyncio.gather(*(answer(engine, prompt, str(i)) for i, prompt in enumerate(forms)))
    assert len(set(texts)) == 1


async def test_what_cannot_be_asked_is_refused_and_leaves_nothing(engine: AsyncLLMEngine, tmp_path: Path) -> None:
    async with asyncio.timeout(60):
        for prompt, params, error, message in [
            ({"text": "x"}, GREEDY, TypeError, "a prompt is"),
            ({"prompt": "x", "multi_modal_data": {"image": 1}}, GREEDY, TypeError, "leave 'multi_modal_data' out"),
            ([10**6], GREEDY, ValueError, "token ids must be"),
            ([1] * 3000, GREEDY, ValueError, "3000 tokens"),
            ("", GREEDY, ValueError, "no tokens"),
            ("x", {"temperature": 0}, TypeError, "sampling parameters are SamplingParams, not dict"),
            ("x", SamplingParams(logit_bias={10**6: 1.0}), ValueError, "logit_bias must be"),
        ]:
            with pytest.raises(error, match=message):
                await answer(engine, prompt, "refused", params)
        for priority in ("high", 2**70):
            with pytest.raises(ValueError, match="priority must be an integer"):
                await answer(engine, "x", "refused", priority=priority)
        with pytest.raises(AdapterRejected):
            await answer(engine, "x", "refused", lora_request=LoRARequest("gone", 9, str(tmp_path)))
    assert not engine._running
    assert (await idle(engine)).running == 0


async def test_a_request_that_cannot_be_sent_ends_with_the_reason(
    engine: AsyncLLMEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(request: object) -> None:
        raise OverflowError

    monkeypatch.setattr(engine._engine._engine, "generate", refuse)
    (output,) = [output async for output in engine.generate("x", GREEDY, "unsent")]
    assert output.outputs[0].finish_reason == "error"
    assert output.outputs[0].error == "The request could not be sent: OverflowError."


def test_loops_of_several_threads_share_an_engine(engine: AsyncLLMEngine) -> None:
    async def several(thread: int) -> list[str]:
        return await asyncio.gather(*(answer(engine, "Hello", f"{thread}.{i}") for i in range(4)))

    with ThreadPoolExecutor(4) as pool:
        texts = [text for found in pool.map(lambda i: asyncio.run(several(i)), range(4)) for text in found]
    assert len(texts) == 16
    assert len(set(texts)) == 1


async def test_structured_output_follows_its_form(engine: AsyncLLMEngine) -> None:
    params = SamplingParams(max_tokens=20, structured_outputs=StructuredOutputsParams(choice=["yes", "no"]))
    assert await answer(engine, PROMPT, "form", params) in ("yes", "no")
    wrong = SamplingParams(structured_outputs=StructuredOutputsParams(regex="("))
    with pytest.raises(ValueError, match="structured_outputs cannot be used"):
        await answer(engine, PROMPT, "form", wrong)


async def test_an_id_is_used_once_at_a_time(engine: AsyncLLMEngine) -> None:
    async with aclosing(engine.generate("x", LONG, "mine")) as stream:
        await first_of(stream)
        with pytest.raises(ValueError, match="'mine' is in use"):
            await answer(engine, "x", "mine")
    assert await answer(engine, "x", "mine")
    # `answer` leaves its iterator at the last output, and nothing has closed that yet.
    assert await answer(engine, "x", "mine")


@pytest.mark.parametrize("way", ["break", "aclose", "cancel", "garbage"])
async def test_leaving_an_iterator_ends_its_request(engine: AsyncLLMEngine, way: str) -> None:
    before = (await idle(engine)).steps
    if way == "break":
        async for _ in engine.generate("x", ENDLESS, way):
            break
        gc.collect()
    elif way == "cancel":
        task = asyncio.create_task(answer(engine, "x", way, ENDLESS))
        await until(engine, lambda now: now.steps > before + 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        stream = engine.generate("x", ENDLESS, way)
        await anext(aiter(stream))
        if way == "aclose":
            await stream.aclose()  # type: ignore[attr-defined]
        del stream
        gc.collect()
    # The asynchronous finalizers of a generator that was dropped need turns of the loop.
    for _ in range(100):
        await asyncio.sleep(0)
    assert not engine._running
    # The engine hears of the leaving before it is asked for its status.
    here = (await status(engine)).stats
    assert here.steps < before + 1900
    assert (await idle(engine)).steps <= here.steps + 2


async def test_an_aborted_request_says_so_in_its_last_output(engine: AsyncLLMEngine) -> None:
    outputs = []
    async for output in engine.generate("x", LONG, "aborted"):
        outputs.append(output)
        await engine.abort(["aborted", "unknown"])
    assert outputs[-1].finished
    assert outputs[-1].outputs[0].finish_reason == "abort"
    assert len(outputs[-1].outputs[0].token_ids) < 400
    await idle(engine)


async def test_several_answers_stop_strings_and_candidates(engine: AsyncLLMEngine) -> None:
    whole = [o async for o in engine.generate(PROMPT, SamplingParams(n=3, seed=1, max_tokens=20), "n")][-1]
    assert [each.index for each in whole.outputs] == [0, 1, 2]
    text = await answer(engine, PROMPT, "free", LONG)
    stop = text[30:33]
    stopped = [
        o async for o in engine.generate(PROMPT, SamplingParams(temperature=0, max_tokens=400, stop=(stop,)), "s")
    ]
    assert stopped[-1].outputs[0].text == text[: text.index(stop)]
    assert stopped[-1].outputs[0].stop_reason == stop
    best = [o async for o in engine.generate(PROMPT, SamplingParams(n=1, best_of=3, max_tokens=20, seed=1), "b")]
    assert [output.finished for output in best] == [True]
    await idle(engine)


async def test_vectors_and_beams_are_those_of_llm(engine: AsyncLLMEngine) -> None:
    search = SamplingParams(n=3, use_beam_search=True, max_tokens=8, temperature=0.0)
    prompts: list[Any] = [PROMPT, {"prompt_token_ids": [5, 6, 7]}]
    with LLM(DEMO / "base", ADAPTERS, **SIZES) as llm:
        vectors = [o.outputs.data for o in llm.encode(prompts, lora_request=[None, "sql"], use_tqdm=False)]
        (beams,) = llm.generate(PROMPT, search, adapter="sql", progress=False)
    raw = PoolingParams(use_activation=False)
    (plain,) = [o async for o in engine.encode(PROMPT, PoolingParams(task="embed"), "plain", priority=1)]
    (adapted,) = [o async for o in engine.encode(prompts[1], raw, "adapted", lora_request=REQUESTS["sql"])]
    assert (plain.request_id, plain.finished) == ("plain", True)
    assert np.allclose(plain.outputs.data, vectors[0], atol=1e-5)
    length = np.linalg.norm(adapted.outputs.data)
    assert length > 2
    assert np.allclose(adapted.outputs.data / length, vectors[1], atol=1e-5)
    found = [o async for o in engine.generate(PROMPT, search, "beams", REQUESTS["sql"])]
    assert [output.finished for output in found] == [True]
    assert [each.text for each in found[0].outputs] == [each.text for each in beams.outputs]
    assert not engine._running


async def test_a_search_that_is_aborted_or_left_ends(engine: AsyncLLMEngine) -> None:
    search = SamplingParams(n=4, use_beam_search=True, max_tokens=500, ignore_eos=True, temperature=0.0)
    before = (await idle(engine)).steps
    searching = asyncio.create_task(anext(aiter(engine.generate("x", search, "cut"))))
    await until(engine, lambda now: now.steps > before + 3)
    with pytest.raises(ValueError, match="'cut' is in use"):
        await answer(engine, "x", "cut")
    await engine.abort("cut")
    output = await searching
    assert output.finished
    assert [(each.index, each.finish_reason) for each in output.outputs] == [(i, "abort") for i in range(4)]
    left = asyncio.create_task(answer(engine, "x", "left", search))
    await until(engine, lambda now: now.steps > before + 10)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    assert (await idle(engine)).steps < before + 400
    assert not engine._running


async def test_vectors_are_refused_with_the_reason(engine: AsyncLLMEngine, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="priority must be an integer"):
        await anext(engine.encode("x", priority=2**70))
    with pytest.raises(TypeError, match="a prompt is a string or a list of token ids"):
        await anext(engine.encode(5))  # type: ignore[arg-type]
    with pytest.raises(AdapterRejected):
        await anext(engine.encode("x", lora_request=LoRARequest("gone", 9, str(tmp_path))))
    too_long = [5] * 3000
    with pytest.raises(ValueError, match=r"3000|2048"):
        await anext(engine.encode(too_long))
    assert not engine._running


async def test_special_tokens_that_a_caller_keeps_stay_in_the_text(engine: AsyncLLMEngine) -> None:
    system, user = (engine.tokenizer.token_id(text) for text in ("<|system|>", "<|user|>"))
    for forced, text in ((system, "<|system|>" * 3), (user, "")):
        params = SamplingParams(temperature=0.0, max_tokens=3, logit_bias={forced: 100.0})
        assert await answer(engine, "x", "kept", params, kept_ids=[system]) == text


async def test_a_lower_priority_number_runs_first() -> None:
    async with make_engine(max_num_seqs=1) as engine:
        ended: list[str] = []

        async def run(id: str, priority: int) -> None:
            await answer(engine, "x", id, SamplingParams(max_tokens=100, ignore_eos=True), priority=priority)
            ended.append(id)

        running = asyncio.create_task(run("running", 0))
        await until(engine, lambda now: now.running > 0)
        later = [asyncio.create_task(run(f"priority {number}", number)) for number in (3, 2, 1)]
        await asyncio.gather(running, *later)
    assert ended == ["running", "priority 1", "priority 2", "priority 3"]


async def test_adapters_are_added_listed_pinned_and_removed(engine: AsyncLLMEngine) -> None:
    sql = LoRARequest("added", 7, ADAPTERS["sql"])
    assert await engine.add_lora(sql)
    assert await engine.list_loras() == {7}
    assert await engine.pin_lora(7)
    assert [row.residency for row in (await status(engine)).adapters if row.pinned] == ["slot"]
    assert await engine.remove_lora(7)
    assert not await engine.remove_lora(7)
    assert not await engine.pin_lora(7)
    assert await engine.list_loras() == set()
    assert not [row for row in (await status(engine)).adapters if row.pinned]
    # A request brings its adapter itself.
    assert await answer(engine, PROMPT, "again", lora_request=sql) == await answer(
        engine, PROMPT, "sql", lora_request=REQUESTS["sql"]
    )


async def test_a_killed_engine_fails_what_runs_and_comes_back_with_its_adapters(engine: AsyncLLMEngine) -> None:
    assert await engine.add_lora(REQUESTS["pirate"])
    assert await engine.pin_lora(2)
    expected = await answer(engine, PROMPT, "before", lora_request=REQUESTS["pirate"])
    await engine.check_health()
    stream = engine.generate(PROMPT, LONG, "running")
    await first_of(stream)
    os.kill((await status(engine)).pid, signal.SIGKILL)
    with pytest.raises(EngineDeadError, match="engine process ended"):
        async for _ in stream:
            pass
    assert async_llm_engine.AsyncEngineDeadError is EngineDeadError
    async with asyncio.timeout(60):
        while engine.is_running:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)
    assert engine.errored
    assert "SIGKILL" in str(engine.dead_error)
    with pytest.raises(EngineDeadError):
        await engine.check_health()
    # Waits for the new process.
    assert await answer(engine, PROMPT, "running", lora_request=REQUESTS["pirate"]) == expected
    assert engine.is_running
    await engine.check_health()
    assert [row.residency for row in (await status(engine)).adapters if row.pinned] == ["slot"]
    assert await engine.remove_lora(2)


async def test_after_a_shutdown_nothing_runs_and_everything_says_so() -> None:
    engine = make_engine()
    pid = (await status(engine)).pid
    running = asyncio.create_task(answer(engine, "x", "running", LONG))
    await until(engine, lambda now: now.running > 0)
    await asyncio.to_thread(engine.shutdown)
    engine.shutdown_background_loop()
    with pytest.raises(EngineDeadError):
        await running
    with pytest.raises(EngineDeadError, match="shut down"):
        await answer(engine, "x", "late")
    with pytest.raises(EngineDeadError, match="shut down"):
        await engine.check_health()
    assert not engine.is_running
    assert not is_alive(pid)


def test_an_engine_that_is_dropped_ends() -> None:
    engine = make_engine()
    pid = asyncio.run(status(engine)).pid
    del engine
    gc.collect()
    assert not is_alive(pid)


def test_what_is_no_model_is_told_where_the_engine_is_made(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        make_engine(model=str(tmp_path))
    with pytest.raises(ValueError, match="gpu_memory_utilization"):
        make_engine(gpu_memory_utilization=2.0)
    # Found by the engine's process.
    with pytest.raises(ModelError, match="KV cache"):
        make_engine(kv_cache_memory=1)


PROGRAM = """
import asyncio, sys
from multiflora import AsyncLLMEngine, AsyncEngineArgs, SamplingParams

engine = AsyncLLMEngine.from_engine_args(AsyncEngineArgs(model=sys.argv[1], kv_cache_memory=1 << 24, num_threads=1))

async def ask():
    stream = engine.generate("x", SamplingParams(max_tokens=400, ignore_eos=True), "1")
    async for output in stream:
        if not output.finished:
            status = await engine._engine.ask(lambda calls: calls.status())
            print(status.pid, engine._finalizer.peek()[2][1], flush=True)
        if sys.argv[2] == "leave":
            return

asyncio.run(ask())
if sys.argv[2] == "kill":
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["leave", "end", "kill"])
def test_a_program_that_ends_without_shutdown_leaves_no_process(how: str) -> None:
    command = [sys.executable, "-c", PROGRAM, str(DEMO / "base"), how]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stderr) == (-signal.SIGKILL if how == "kill" else 0, "")
    pid, folder = ran.stdout.split()[:2]
    deadline = time.monotonic() + 60
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(pid)
    if how != "kill":
        assert not Path(folder).exists()
