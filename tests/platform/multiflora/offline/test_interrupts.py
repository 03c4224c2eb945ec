"""When Ctrl-C reaches a program that has something under way which must not be left half done."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest

from multiflora.offline.interrupts import Interrupts


@pytest.fixture(autouse=True)
def _pythons_own_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler, "it is put back"


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def work(interrupts: Interrupts, *parts: Callable[[], object]) -> None:
    with interrupts.held_back():
        for part in parts:
            part()


def test_the_first_comes_when_the_work_is_done() -> None:
    interrupts, done = Interrupts(), Mock()
    with pytest.raises(KeyboardInterrupt):
        work(interrupts, lambda: work(interrupts, press), done)
    done.assert_called_once_with()
    work(interrupts, interrupts.let_in)  # of which nothing is left


def test_the_second_comes_at_once() -> None:
    between, behind = Mock(), Mock()
    with pytest.raises(KeyboardInterrupt):
        work(Interrupts(), press, between, press, behind)
    between.assert_called_once_with()
    behind.assert_not_called()


def test_it_is_let_in_where_nothing_is_half_done() -> None:
    interrupts, before, behind = Interrupts(), Mock(), Mock()
    with pytest.raises(KeyboardInterrupt):
        work(interrupts, interrupts.let_in, press, before, interrupts.let_in, behind)
    before.assert_called_once_with()
    behind.assert_not_called()
    interrupts.let_in()


def test_a_failure_does_not_hide_it() -> None:
    with pytest.raises(KeyboardInterrupt) as raised:
        work(Interrupts(), press, Mock(side_effect=ValueError("meanwhile")))
    assert isinstance(raised.value.__context__, ValueError)


def test_a_program_s_own_handler_is_asked_once() -> None:
    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    try:
        with Interrupts().held_back():
            press()
            assert not asked
        assert asked == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_is_ignored_stays_ignored_and_other_threads_hold_nothing() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts().held_back():
            press()
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)

    def elsewhere() -> object:
        with Interrupts().held_back():
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(elsewhere).result() is signal.default_int_handler
