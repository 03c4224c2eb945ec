"""What the log says of blocks that come and go, and that it keeps nothing while it is off."""

from __future__ import annotations

from array import array

from multiflora_engine.cache.changes.change_log import ChangeLog
from multiflora_engine.core.sequence import Sequence, make_sequences
from multiflora_engine.protocol.cache_change import CacheChange
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams


def hash_of(number: int) -> bytes:
    return bytes([number]) * 32


def of_five_blocks(owner: str = "") -> Sequence:
    request = GenerateRequest(id="r", prompt_token_ids=list(range(20)), params=SamplingParams(), cache_owner=owner)
    (sequence,) = make_sequences(request, 0)
    sequence.block_hashes = [hash_of(number) for number in range(5)]
    sequence.block_table = array("i", range(5))
    return sequence


def test_a_batch_of_blocks_is_one_change_and_what_was_there_before_divides_it() -> None:
    log = ChangeLog()
    log.turn(True)
    log.stored(of_five_blocks("t"), [0, 1], "a")
    log.stored(of_five_blocks(), [1, 3, 4], None)
    assert log.take() == [
        CacheChange(hash_of(0) + hash_of(1), False, b"", "a", "t"),
        CacheChange(hash_of(1), False, hash_of(0)),
        CacheChange(hash_of(3) + hash_of(4), False, hash_of(2)),
    ]
    assert log.take() == []


def test_removals_in_a_row_are_one_change_and_keep_their_place_among_the_others() -> None:
    log = ChangeLog()
    log.turn(True)
    for number in (7, 8):
        log.removed(hash_of(number))
    log.stored(of_five_blocks(), [0], None)
    log.removed(hash_of(0))
    assert log.take() == [
        CacheChange(hash_of(7) + hash_of(8), True),
        CacheChange(hash_of(0)),
        CacheChange(hash_of(0), True),
    ]


def test_changes_are_counted_from_when_it_is_turned_on() -> None:
    log = ChangeLog()
    log.turn(True)
    log.stored(of_five_blocks(), [0], None)
    log.removed(hash_of(0))
    assert (log.count, len(log.take()), log.count) == (2, 2, 2)
    log.stored(of_five_blocks(), [0], None)
    log.turn(True)
    assert (log.count, log.take()) == (0, [])
