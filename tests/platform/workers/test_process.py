"""A worker that was ended: whose fault it was, and whether its work is tried again."""

from __future__ import annotations

import pytest

from multiflora_platform.workers.process import WorkerEnded, WorkerProcess, again_if_ended_from_outside

CHECKS = "multiflora_platform.evals.check_worker"
LINE = b'{"pattern": "a"}\n'


async def test_an_end_by_a_signal_is_from_outside_and_one_by_its_own_timer_is_not() -> None:
    worker = await WorkerProcess.start(CHECKS, "0.05", line_bytes=1000)
    assert await worker.ask(LINE, 60) == b'{"passed":true}\n'
    with pytest.raises(WorkerEnded) as by_itself:
        await worker.ask(b'{"pattern": "(?:a|a)*$", "answer": "b%sc"}\n' % (b"a" * 40), 60)
    assert worker.is_dead
    assert not by_itself.value.from_outside
    worker = await WorkerProcess.start(CHECKS, "2", line_bytes=1000)
    worker._process.kill()
    with pytest.raises(WorkerEnded) as killed:
        await worker.ask(LINE, 60)
    assert killed.value.from_outside
    await worker.kill()


async def test_an_answer_without_end_is_none() -> None:
    worker = await WorkerProcess.start(CHECKS, "2", line_bytes=10)
    with pytest.raises(WorkerEnded) as ended:
        await worker.ask(b'{"pattern": "("}\n', 60)
    assert not ended.value.from_outside
    await worker.kill()


@pytest.mark.parametrize(
    ("ends", "attempts", "answers"),
    [([], 1, True), ([True], 2, True), ([False], 1, False), ([True, True], 2, False), ([True, False], 2, False)],
)
async def test_work_is_tried_once_more_when_another_process_ended_its_worker(
    ends: list[bool], attempts: int, answers: bool
) -> None:
    left, made = list(ends), []

    async def attempt() -> str:
        made.append(1)
        if left:
            raise WorkerEnded(left.pop(0))
        return "answer"

    if answers:
        assert await again_if_ended_from_outside(attempt) == "answer"
    else:
        with pytest.raises(WorkerEnded):
            await again_if_ended_from_outside(attempt)
    assert len(made) == attempts
