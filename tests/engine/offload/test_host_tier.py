from tests.engine.offload.copies import BLOCK_BYTES, at_once, content_of, hash_of, kept

from multiflora_engine.offload.host_tier import HostTier


def test_copies_are_read_as_written_and_evicted_when_there_are_more_than_fit() -> None:
    tier = HostTier(BLOCK_BYTES, 3)
    for name in range(5):
        assert tier.write(kept(name), content_of(name), None, at_once)
    found = {}
    for name in range(5):
        into = bytearray(BLOCK_BYTES)
        if tier.read(hash_of(name), memoryview(into), at_once):
            found[name] = into == content_of(name)
    assert found == dict.fromkeys(range(2, 5), True)
    assert (tier.counts.stored, tier.counts.loaded, tier.counts.lost) == (5, 3, 2)
    tier.discard(hash_of(4))
    assert tier.slots.find(hash_of(4)) is None


def test_without_room_for_one_nothing_is_kept() -> None:
    tier = HostTier(BLOCK_BYTES, 0)
    assert not tier.write(kept(1), content_of(1), None, at_once)
