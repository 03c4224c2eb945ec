"""A host's artifacts within so many bytes: what was needed longest ago goes, and never what is in use anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.platform.registry.house import adapter_files

from multiflora_adapters.store import ArtifactStore


def filled(root: Path, count: int = 4, most: int | None = None) -> tuple[ArtifactStore, list[str], int]:
    """A store with artifacts of one size, which were needed one after the other; their digests, and that size."""
    keeping = ArtifactStore(root / "artifacts")
    digests = []
    for number in range(count):
        folder = root / f"upload-{number}"
        folder.mkdir(parents=True)
        for name, content in adapter_files(number).items():
            (folder / name).write_bytes(content)
        digests.append(keeping.add(folder).digest)
        os.utime(keeping.path(digests[-1]), (number, number))
    size = sum(file.stat().st_size for file in keeping.path(digests[0]).iterdir())
    keeping.leases.close()
    return ArtifactStore(root / "artifacts", cache_bytes=None if most is None else most * size), digests, size


def test_what_was_needed_longest_ago_goes_first(tmp_path: Path) -> None:
    store, digests, size = filled(tmp_path, most=3)
    store.cache.touch(digests[0])
    store.cache.make_room()
    assert set(store.digests()) == {digests[0], *digests[2:]}
    store.cache.make_room(wanted=2 * size)
    assert store.digests() == [digests[0]]
    assert (store.cache.evictions, store.cache.bytes) == (3, size)
    assert not [path for path in (tmp_path / "artifacts").iterdir() if path.name.startswith(".tmp")]


def test_without_a_limit_nothing_goes(tmp_path: Path) -> None:
    store, digests, _ = filled(tmp_path)
    store.cache.make_room(1 << 60)
    assert len(store.digests()) == len(digests)


def test_what_is_in_use_stays_and_counts_as_needed_now(tmp_path: Path) -> None:
    store, digests, _ = filled(tmp_path, most=2)
    store.cache.make_room(is_used=lambda digest: digest == digests[0])
    assert set(store.digests()) == {digests[0], digests[3]}
    with store.leases.held(digests[0]), store.leases.held(digests[0]):
        store.cache.make_room(1 << 60)
        assert store.digests() == [digests[0]]
    store.cache.make_room(1 << 60)
    assert store.digests() == []


def test_what_another_process_holds_stays_until_that_ends(tmp_path: Path) -> None:
    store, digests, _ = filled(tmp_path, count=2, most=0)
    code = (
        "import sys; from pathlib import Path\n"
        "from multiflora_adapters.store import ArtifactStore\n"
        "ArtifactStore(Path(sys.argv[1])).leases.acquire(sys.argv[2])\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "artifacts"), digests[0]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        store.cache.make_room()
        assert store.digests() == [digests[0]]
        other.kill()
    store.cache.make_room()
    assert store.digests() == []


class Origin:
    """Has what a store has."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def get(self, digest: str, folder: Path) -> bool:
        for file in self._store.path(digest).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return True


@pytest.mark.parametrize("most", [1, 0])
def test_what_comes_takes_the_place_of_others_and_stays_itself(tmp_path: Path, most: int) -> None:
    """Even where it is larger than the cache: it was asked for."""
    shared, digests, size = filled(tmp_path / "shared", count=2)
    origin = Origin(shared)
    own = ArtifactStore(tmp_path / "own", origin, most * size)  # type: ignore[arg-type]
    for digest in digests:
        own.brought(digest)
        assert own.digests() == [digest]
    assert (own.cache.fetches, own.cache.fetched_bytes, own.cache.evictions) == (2, 2 * size, 1)
    own.brought(digests[1])
    assert own.cache.fetches == 2
