"""How much copying a step allows: by a processor clock that the test moves."""

import threading

from multiflora_engine.offload.step_pace import StepPace


class Copier:
    """Asks the pace behind each 0.4 ms of work, on a thread of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pace = StepPace(lambda: self.now)
        self.urgent = False
        self.parts = 0
        self._progress = threading.Semaphore(0)
        self._over = False
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._over:
            self.now += 0.0004
            self.pace.behind(lambda: self.urgent)
            self.parts += 1
            self._progress.release()

    def wait_for_parts(self, count: int) -> None:
        for _ in range(count):
            assert self._progress.acquire(timeout=60)

    def has_stopped(self) -> bool:
        return not self._progress.acquire(timeout=0.05)

    def end(self) -> None:
        self._over = True
        self.pace.end()
        self.thread.join(60)
        assert not self.thread.is_alive()


def test_a_step_allows_a_millisecond_and_all_that_comes_between_steps() -> None:
    copier = Copier()
    copier.pace.step_begins()
    copier.thread.start()
    copier.wait_for_parts(2)
    assert copier.has_stopped(), "the third part of 0.4 ms ends beyond the millisecond"
    for _ in range(2):
        copier.pace.step_ends()
        copier.pace.step_begins()
        copier.wait_for_parts(1)
    copier.pace.step_ends()
    copier.wait_for_parts(50)
    copier.end()


def test_what_has_become_urgent_is_not_held_up() -> None:
    copier = Copier()
    copier.pace.step_begins()
    copier.thread.start()
    copier.wait_for_parts(2)
    assert copier.has_stopped()
    copier.urgent = True
    copier.wait_for_parts(20)
    copier.end()


def test_what_a_request_waits_for_may_take_a_tenth_of_a_long_step() -> None:
    now = 0.0
    pace = StepPace(lambda: now)
    pace.step_begins()
    pace._began -= 1.0
    pace.step_ends()
    pace.step_begins()
    for _ in range(4):
        now += 0.02
        pace.ahead()
    now += 0.03
    done = threading.Event()
    thread = threading.Thread(target=lambda: (pace.ahead(), done.set()), daemon=True)
    thread.start()
    assert not done.wait(0.05)
    pace.step_ends()
    assert done.wait(60)
