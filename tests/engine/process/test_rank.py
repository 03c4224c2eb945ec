"""A rank's process, as far as it needs no model: its last words, and when it has none."""

from __future__ import annotations

import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest

from multiflora_engine.core.rank_group import GroupBroken
from multiflora_engine.models.errors import ModelError
from multiflora_engine.parallel.messages import FromRank, RankFailed, Started, StartRank, decoder, encode
from multiflora_engine.process import rank
from multiflora_engine.protocol.config import SizedConfig


class Failing:
    """A `FollowingRank` whose step ends so."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def run(self, line: Connection) -> None:
        raise self._error

    def close(self) -> None:
        pass


class Process:
    """A rank on a thread, and the first rank's end of its line of steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        monkeypatch.setattr(rank, "_rank", lambda start, adapters, copies: Failing(error))
        self.status: int | None = None
        self.line, theirs = Pipe()
        self._thread = threading.Thread(target=self._run, args=(theirs, Pipe()[0], Pipe()[0]), daemon=True)
        self._thread.start()
        self.line.send_bytes(encode(StartRank(SizedConfig(model_path="", artifact_root=""), 1, "", None)))
        assert self.heard() == Started()

    def heard(self) -> object:
        assert self.line.poll(10), "a rank that has ended closes its line"
        return decoder(FromRank).decode(self.line.recv_bytes())

    def join(self) -> int | None:
        self._thread.join(10)
        return self.status

    def _run(self, steps: Connection, adapters: Connection, copies: Connection) -> None:
        self.status = rank.follow(steps, adapters, copies)


@pytest.mark.parametrize(
    ("error", "said", "status"),
    [
        (ModelError("too large"), RankFailed("too large", is_configuration=True), 3),
        (IndexError("no such row"), RankFailed("IndexError: no such row", is_configuration=False), 1),
    ],
)
def test_what_ended_it_is_its_last_word(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: RankFailed, status: int
) -> None:
    process = Process(monkeypatch, error)
    assert process.heard() == said
    assert process.join() == status


def test_one_that_hears_of_anothers_end_leaves_that_to_the_first_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own words would hide the cause."""
    process = Process(monkeypatch, GroupBroken("connection closed"))
    process.line.send_bytes(b"a step")
    process.line.close()
    assert process.join() == 0


def test_it_ends_in_silence_when_the_first_rank_has(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(monkeypatch, EOFError())
    assert process.join() == 0
    with pytest.raises(EOFError):
        process.heard()
