"""Copies on disk against everything that a disk, a crash or an operator can do to them."""

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.offload.copies import BLOCK_BYTES, Disk, at_once, content_of, hash_of, kept, read, write

from multiflora_engine.offload import disk_tier, slot_index
from multiflora_engine.offload.disk_tier import CONTENT_NAME, INDEX_NAME
from multiflora_engine.offload.slot_index import ENTRY_BYTES


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    yield disk
    if disk.tier is not None:
        disk.tier.close()


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def test_what_was_written_is_read_also_by_a_process_that_follows_a_killed_one(disk: Disk) -> None:
    tier = disk.open()
    assert all(write(tier, name) for name in range(5))
    again = disk.open()
    for opened in (tier, again):
        assert [read(opened, name) for name in range(5)] == [bytes(content_of(name)) for name in range(5)]
    assert read(again, "never written") is None
    assert (again.counts.loaded, again.counts.lost, again.counts.stored) == (5, 1, 0)


def test_files_are_the_users_alone(disk: Disk) -> None:
    write(disk.open(), 1)
    assert {oct(file.stat().st_mode & 0o777) for file in disk.folder.iterdir()} == {"0o600"}


@pytest.mark.parametrize("at", [0, 17, BLOCK_BYTES - 1])
def test_a_flipped_byte_of_the_content_loses_that_block_and_no_other(disk: Disk, at: int) -> None:
    tier = disk.open()
    for name in range(3):
        write(tier, name)
    flip(disk.folder / CONTENT_NAME, BLOCK_BYTES + at)
    tier = disk.open()
    assert [read(tier, name) for name in range(3)] == [bytes(content_of(0)), None, bytes(content_of(2))]
    assert tier.counts.lost == 1
    assert tier.slots.find(hash_of(1)) is None, "asked for once more, it is looked up in vain"
    assert write(tier, 1)
    assert read(tier, 1) == bytes(content_of(1))


def test_any_flipped_byte_of_the_index_loses_that_block_and_never_mixes_two(disk: Disk) -> None:
    tier = disk.open()
    for name in range(3):
        write(tier, name)
    used = ENTRY_BYTES - 3  # the last three bytes mean nothing, and are covered all the same
    for at in range(0, used, 5):
        flip(disk.folder / INDEX_NAME, ENTRY_BYTES + at)
        opened = disk.open()
        assert [read(opened, name) for name in range(3)] == [bytes(content_of(0)), None, bytes(content_of(2))]
        opened.close()
        disk.tier = None
        flip(disk.folder / INDEX_NAME, ENTRY_BYTES + at)
    assert read(disk.open(), 1) == bytes(content_of(1)), "flipped back, it is as it was"


@pytest.mark.parametrize("name", [CONTENT_NAME, INDEX_NAME])
@pytest.mark.parametrize("left", [0, 1, 700])
def test_a_truncated_file_loses_what_it_lacks(disk: Disk, name: str, left: int) -> None:
    tier = disk.open()
    for block in range(8):
        write(tier, block)
    whole = left // (BLOCK_BYTES if name == CONTENT_NAME else ENTRY_BYTES)
    os.truncate(disk.folder / name, left)
    for opened in (tier, disk.open()):
        found = [read(opened, block) for block in range(8)]
        assert found == [bytes(content_of(block)) if block < whole else None for block in range(8)]
    assert all(write(opened, f"new {block}") for block in range(8))
    assert [read(opened, f"new {block}") for block in range(8)] == [bytes(content_of(f"new {i}")) for i in range(8)]


def test_content_that_another_block_left_in_the_slot_is_not_read_for_this_one(disk: Disk) -> None:
    """As after a crash of the machine that kept the old entry and the new content."""
    tier = disk.open(num_slots=1)
    write(tier, "old")
    entry = (disk.folder / INDEX_NAME).read_bytes()
    write(tier, "new")
    (disk.folder / INDEX_NAME).write_bytes(entry)
    opened = disk.open(num_slots=1)
    assert read(opened, "old") is None
    assert read(opened, "new") is None


def test_a_process_that_dies_in_any_write_leaves_nothing_wrong(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every write may be the last one, whole or half."""
    real, left = os.pwrite, 0

    def killed(fd: int, content: memoryview, offset: int) -> int:
        nonlocal left
        left -= 1
        if left == 0:
            real(fd, content[: len(content) // 2], offset)
        if left <= 0:
            raise KeyboardInterrupt
        return real(fd, content, offset)

    for last in range(1, 12):
        tier = disk.open(num_slots=2)
        with monkeypatch.context() as patch:
            left = last
            patch.setattr(slot_index.os, "pwrite", killed)
            with pytest.raises(KeyboardInterrupt):
                all(write(tier, (last, name)) for name in range(6))
        opened = disk.open(num_slots=2)
        found = [read(opened, (last, name)) for name in range(6)]
        assert all(content in (None, bytes(content_of((last, name)))) for name, content in enumerate(found))
        tier.close()
        opened.close()
        disk.tier = None


def test_an_unreadable_disk_loses_blocks_and_raises_nothing(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = disk.open()
    write(tier, 1)
    write(tier, 2)

    def broken(*arguments: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(disk_tier.os, "preadv", broken)
        assert read(tier, 1) is None
    assert tier.counts.lost == 1
    assert read(tier, 2) == bytes(content_of(2))


def test_a_write_that_fails_is_counted_and_tried_again_later(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    tier, attempts = disk.open(), []

    def broken(*arguments: object) -> int:
        attempts.append(arguments)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(slot_index.os, "pwrite", broken)
        assert not any(write(tier, name) for name in range(3))
    assert len(attempts) == 1, "a disk that fails is left alone for a while"
    assert tier.counts.failed_writes == 1
    assert not write(tier, 1)
    disk.now += 11
    assert write(tier, 1)
    assert read(tier, 1) == bytes(content_of(1))


def test_a_disk_that_fails_is_told_of_once_and_asked_for_nothing_but_to_forget(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tier, attempts = disk.open(), []
    for name in range(4):
        write(tier, name)

    def broken(fd: int, content: memoryview, offset: int) -> int:
        attempts.append(offset)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(slot_index.os, "pwrite", broken)
        disk.now += 100
        for _ in range(3):
            tier.use([hash_of(0), hash_of(1)], counts=True)
        assert len(attempts) == 1
        for name in (2, 3):
            tier.discard(hash_of(name))
        disk.now += 9
        tier.use([hash_of(0)], counts=True)
    assert len(attempts) == 3, "what is dropped is cleared where that can be"
    assert len(caplog.records) == 1
    disk.now += 2
    assert write(tier, "new"), "forgetting in vain makes the pause no longer"
    assert tier.slots.find(hash_of(2)) is None


def test_a_full_disk_keeps_what_fits_and_evicts_from_then_on(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    tier, real = disk.open(), os.pwrite

    def full(fd: int, content: memoryview, offset: int) -> int:
        if len(content) > ENTRY_BYTES and offset >= 3 * BLOCK_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, content, offset)

    monkeypatch.setattr(slot_index.os, "pwrite", full)
    assert all(write(tier, name) for name in range(8))
    assert len(tier.slots) == 3
    assert tier.counts.failed_writes == 1
    found = [name for name in range(8) if read(tier, name) == bytes(content_of(name))]
    assert len(found) == 3
    assert 7 in found


def test_a_full_disk_that_has_room_again_is_filled_on(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried once a minute, and told of again only where it is full at another number."""
    tier, real, room = disk.open(), os.pwrite, 0

    def full(fd: int, content: memoryview, offset: int) -> int:
        if len(content) > ENTRY_BYTES and offset >= room * BLOCK_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, content, offset)

    monkeypatch.setattr(slot_index.os, "pwrite", full)
    sizes = []
    for minute, copies in enumerate([3, 3, 5, 8]):
        room = copies
        disk.now += 50
        assert write(tier, (minute, "early"))
        disk.now += 10
        assert all(write(tier, (minute, name)) for name in range(8))
        sizes.append((len(tier.slots), tier.slots.capacity, tier.counts.failed_writes, len(caplog.records)))
    assert sizes == [(3, 3, 1, 1), (3, 3, 2, 1), (5, 5, 3, 2), (8, 8, 3, 2)]
    assert [read(tier, (3, name)) for name in range(8)] == [bytes(content_of((3, name))) for name in range(8)]
    assert len(disk.open().slots) == 8


def test_a_disk_that_was_full_from_the_start_holds_nothing(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    tier = disk.open()
    monkeypatch.setattr(slot_index.os, "pwrite", full)
    assert not any(write(tier, name) for name in range(3))
    assert len(tier.slots) == 0


def test_a_write_in_parts_is_whole(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(slot_index.os, "pwrite", lambda fd, content, at: real(fd, content[:100], at))
    tier = disk.open()
    assert write(tier, 1)
    assert read(disk.open(), 1) == bytes(content_of(1))


def test_fewer_slots_than_before_keep_what_fits(disk: Disk) -> None:
    tier = disk.open(num_slots=8)
    for name in range(8):
        write(tier, name)
    smaller = disk.open(num_slots=3)
    assert (disk.folder / CONTENT_NAME).stat().st_size == 3 * BLOCK_BYTES
    assert [read(smaller, name) is not None for name in range(8)] == [True] * 3 + [False] * 5


def test_what_was_used_last_and_whose_it_is_is_known_after_a_restart(disk: Disk) -> None:
    tier = disk.open(num_slots=4)
    for name in range(4):
        disk.now += 100
        write(tier, name, owner="acme" if name else "other")
    disk.now += 100
    tier.use([hash_of(1)], counts=True)
    opened = disk.open(num_slots=4)
    assert opened.slots.held(kept(0, owner="acme").owner) == 3
    assert opened.slots.block(1).uses == 2
    # The owner may have two: of its own, what was used least goes, and not the other's, which is older.
    assert write(opened, "new", limit=2)
    assert [opened.slots.find(hash_of(name)) is not None for name in (0, 1, 2, 3, "new")] == [
        True, True, False, False, True,
    ]  # fmt: skip


def test_a_link_in_the_place_of_a_file_is_refused(disk: Disk, tmp_path_factory: pytest.TempPathFactory) -> None:
    target = tmp_path_factory.mktemp("elsewhere") / "precious"
    target.write_bytes(b"precious" * 1_000)
    (disk.folder / CONTENT_NAME).symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        disk.open(num_slots=1)
    assert target.read_bytes() == b"precious" * 1_000


def test_a_file_of_anything_is_read_as_nothing(disk: Disk) -> None:
    noise = random.Random(3).randbytes
    (disk.folder / INDEX_NAME).write_bytes(noise(1_000))
    (disk.folder / CONTENT_NAME).write_bytes(noise(5_000))
    tier = disk.open()
    assert len(tier.slots) == 0
    assert write(tier, 1)
    assert read(tier, 1) == bytes(content_of(1))


def test_the_pace_is_asked_within_a_large_block(tmp_path: Path) -> None:
    large = (1 << 20) + 5
    tier = disk_tier.DiskTier(tmp_path, large, 2)
    calls: list[None] = []
    content = memoryview(random.Random(1).randbytes(large))
    assert tier.write(kept(1), content, None, lambda: calls.append(None))
    into = bytearray(large)
    assert len(calls) == 5
    assert tier.read(hash_of(1), memoryview(into), at_once)
    assert into == content
    tier.close()
