"""Compilers within bounds: pathological structures end in time and cost others nothing; known ones cost nothing."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.platform.structured.conftest import DEMO_BASE, EOS, VOCAB

from multiflora_platform.structured import compiler as compiler_module
from multiflora_platform.structured.compiler import CompilersBusy, GrammarCompiler, GrammarRejected
from multiflora_platform.structured.formats import Structure, json_schema
from multiflora_platform.text.tokenizer import Tokenizer
from multiflora_platform.workers.process import WorkerProcess

# Patterns that all have to hold at once: the automaton of their intersection has no end.
ENDLESS = {"allOf": [{"type": "string", "pattern": f"^(.*a.{{{10 + i}}}b.*)+$"} for i in range(30)]}
HUGE = {"properties": {f"p{i}": {"type": "string", "pattern": "^[a-z]{1,99}$"} for i in range(12_000)}}
TOO_LONG = "takes more than"


@pytest.fixture
async def compiler() -> AsyncIterator[GrammarCompiler]:
    made = GrammarCompiler(Tokenizer.load(DEMO_BASE), VOCAB, frozenset({EOS}))
    yield made
    await made.close()


def schema(**fields: Any) -> Structure:
    return Structure(json_schema({"type": "object", **fields}))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What workers are asked, from now on."""
    asked: list[bytes] = []
    attempt = GrammarCompiler._attempt

    async def counting(self: Any, line: bytes) -> Any:
        asked.append(line)
        return await attempt(self, line)

    monkeypatch.setattr(GrammarCompiler, "_attempt", counting)
    return asked


async def test_a_structure_becomes_a_grammar_once(compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = counted(monkeypatch)
    first, second = await asyncio.gather(compiler.compile(schema(title="a")), compiler.compile(schema(title="a")))
    assert first == second == await compiler.compile(schema(title="a"))
    assert json.loads(first)["grammars"]
    assert len(asked) == 1
    for _ in range(2):
        with pytest.raises(GrammarRejected, match="Unimplemented"):
            await compiler.compile(schema(**{"if": {}}))
    assert len(asked) == 2


@pytest.mark.parametrize("pathological", [ENDLESS, HUGE])
async def test_pathological_schemas_end_after_a_second(
    compiler: GrammarCompiler, pathological: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = counted(monkeypatch)
    await compiler.compile(schema(title="the workers are there"))
    assert compiler_module.COMPILE_SECONDS <= 1.0
    for _ in range(2):
        async with asyncio.timeout(60):
            with pytest.raises(GrammarRejected, match=TOO_LONG):
                await compiler.compile(Structure(json_schema(pathological)))
        assert len(asked) == 2, "the second time it is known"
    assert await compiler.compile(schema(title="the next one"))


async def test_memory_has_a_bound(compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler_module, "COMPILE_SECONDS", 60.0)  # a slow machine takes long for the large one
    compiler = GrammarCompiler(Tokenizer.load(DEMO_BASE), VOCAB, frozenset({EOS}))
    monkeypatch.setattr(compiler_module, "COMPILE_MEGABYTES", 8)
    small = GrammarCompiler(Tokenizer.load(DEMO_BASE), VOCAB, frozenset({EOS}))
    large = {"enum": [f"{i:0200}" for i in range(4000)]}
    try:
        with pytest.raises(GrammarRejected, match=TOO_LONG):
            await small.compile(Structure(json_schema(large)))
    finally:
        await small.close()
    assert await compiler.compile(Structure(json_schema(large)))


async def test_when_all_workers_are_taken_others_are_told(compiler: GrammarCompiler) -> None:
    await compiler.compile(schema(title="warm"))
    await all_started(compiler)
    variants = [Structure(json_schema({**ENDLESS, "title": str(i)})) for i in range(6)]
    async with asyncio.timeout(60):
        results = await asyncio.gather(*map(compiler.compile, variants), return_exceptions=True)
    kinds = {type(result) for result in results}
    assert kinds == {GrammarRejected, CompilersBusy}
    assert await compiler.compile(schema(title="warm")), "known ones go on"


async def test_one_who_leaves_does_not_end_it_for_the_others(compiler: GrammarCompiler) -> None:
    leaver = asyncio.create_task(compiler.compile(schema(title="shared")))
    stayer = asyncio.create_task(compiler.compile(schema(title="shared")))
    await asyncio.sleep(0.01)
    leaver.cancel()
    assert await stayer


async def test_a_worker_that_died_is_replaced(compiler: GrammarCompiler) -> None:
    await compiler.compile(schema(title="a"))
    await all_started(compiler)
    for worker in compiler._workers:
        await worker.kill()
    assert await compiler.compile(schema(title="b"))


async def test_a_structure_is_innocent_of_a_worker_that_is_ended_from_outside(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    await compiler.compile(schema(title="a"))
    await all_started(compiler)
    workers = compiler._workers.copy()
    for worker in workers:
        worker._process.send_signal(signal.SIGTERM)
    for title in ("b", "c"):
        assert await compiler.compile(schema(title=title))
    assert compiler._workers == workers, "the server decides when they end"
    ask, left = WorkerProcess.ask, [signal.SIGKILL]

    async def killed(self: WorkerProcess, line: bytes, seconds: float) -> bytes:
        if left:
            self._process.send_signal(left.pop())
        return await ask(self, line, seconds)

    monkeypatch.setattr(WorkerProcess, "ask", killed)
    assert await compiler.compile(schema(title="d"))
    assert len(compiler._workers & workers) == compiler_module.WORKERS - 1


async def test_what_took_too_long_once_is_tried_again_later(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler_module, "REMEMBER_SECONDS", 0.0)
    attempt = GrammarCompiler._attempt

    async def slow(self: Any, line: bytes) -> Any:
        raise TimeoutError

    monkeypatch.setattr(GrammarCompiler, "_attempt", slow)
    with pytest.raises(GrammarRejected, match=TOO_LONG):
        await compiler.compile(schema(title="a"))
    monkeypatch.setattr(GrammarCompiler, "_attempt", attempt)
    assert await compiler.compile(schema(title="a"))
    assert len(compiler._cache) == 1


async def all_started(compiler: GrammarCompiler) -> None:
    while compiler._starting:  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.01)


async def test_what_is_too_large_or_too_deep_is_refused_at_once(compiler: GrammarCompiler) -> None:
    with pytest.raises(GrammarRejected, match="larger than 1 MiB"):
        await compiler.compile(schema(description="x" * (1 << 20)))
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"items": deep}
    with pytest.raises(GrammarRejected, match="nested too deeply"):
        await compiler.compile(Structure(json_schema(deep)))
    assert not compiler._workers, "no worker was needed for that"


async def test_few_grammars_are_kept(compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler_module, "MAX_CACHED", 3)
    for i in range(5):
        await compiler.compile(schema(title=str(i)))
    assert len(compiler._cache) == 3
    assert compiler._cached_bytes == sum(known.size for known in compiler._cache.values())
