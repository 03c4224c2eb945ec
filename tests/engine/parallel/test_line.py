"""The lines to the other ranks: in order, and what they say of one that has ended."""

from __future__ import annotations

from multiprocessing import Pipe
from multiprocessing.connection import Connection

import pytest

from multiflora_engine.parallel.line import OtherRank, RankLine, RankLost
from multiflora_engine.parallel.messages import (
    RankFailed,
    RemoveAdapter,
    RunDummy,
    Started,
    ToRank,
    decoder,
    encode,
)


@pytest.fixture
def ends() -> tuple[RankLine, Connection]:
    """The first rank's, and the other's end of the line of steps."""
    (steps, theirs), (adapters, _), (copies, _) = Pipe(), Pipe(), Pipe()
    return RankLine([OtherRank(1, steps, adapters, copies, lambda: "killed by SIGKILL")]), theirs


def test_messages_arrive_in_order(ends: tuple[RankLine, Connection]) -> None:
    line, theirs = ends
    sent = [RemoveAdapter(3), RunDummy([None, 2], 16), RemoveAdapter(2)]
    for message in sent:
        line.send(message)
    assert [decoder(ToRank).decode(theirs.recv_bytes()) for _ in sent] == sent


def test_a_rank_that_lives_says_nothing(ends: tuple[RankLine, Connection]) -> None:
    line, theirs = ends
    theirs.send_bytes(encode(Started()))
    line.wait_started()
    line.check()


def test_a_rank_that_was_killed_is_noticed_without_a_step(ends: tuple[RankLine, Connection]) -> None:
    line, theirs = ends
    theirs.close()
    with pytest.raises(RankLost, match=r"^Rank 1 of this engine ended: killed by SIGKILL\.$"):
        line.check()
    with pytest.raises(RankLost, match="killed by SIGKILL"):
        line.send(RemoveAdapter(0))


@pytest.mark.parametrize("is_configuration", [True, False])
def test_last_words_are_the_cause(is_configuration: bool, ends: tuple[RankLine, Connection]) -> None:
    line, theirs = ends
    theirs.send_bytes(encode(Started()))
    theirs.send_bytes(encode(RankFailed("no memory", is_configuration)))
    theirs.close()
    line.wait_started()
    with pytest.raises(RankLost, match=r"^Rank 1: no memory$") as caught:
        line.send(RemoveAdapter(0))
    assert caught.value.is_configuration is is_configuration
