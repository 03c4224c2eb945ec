"""Whose copies lie where: by identity, one engine each, and nothing that is not ours is touched."""

import os
from pathlib import Path

import pytest

from multiflora_engine.offload.folders import OWN_FOLDER, OffloadFolderUnusable, open_folder

IDENTITY = {"base": "b1", "dtype": "float32", "block_size": 16}


def mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o777)


def test_each_identity_has_a_private_folder_and_the_same_one_again(tmp_path: Path) -> None:
    root = tmp_path / "new" / "kv"
    first = open_folder(root, IDENTITY, 1_000)
    first.close()
    again = open_folder(root, dict(reversed(IDENTITY.items())), 1_000)
    other = open_folder(root, {**IDENTITY, "dtype": "bfloat16"}, 1_000)
    assert again.path == first.path
    assert other.path.parent != first.path.parent
    assert {mode(path) for path in (root, root / OWN_FOLDER, first.path.parent, first.path)} == {"0o700"}
    again.close()
    other.close()


def test_an_operators_folder_keeps_its_mode_and_its_files(tmp_path: Path) -> None:
    """Two levels of folders as ours, with files in them, and far too large."""
    tmp_path.chmod(0o755)
    precious = tmp_path / ("0" * 32) / "0" / "blocks"
    precious.parent.mkdir(parents=True)
    precious.write_bytes(bytes(10_000))
    open_folder(tmp_path, IDENTITY, 100).close()
    assert mode(tmp_path) == "0o755"
    assert precious.read_bytes() == bytes(10_000)


def test_engines_that_run_at_once_have_a_folder_each(tmp_path: Path) -> None:
    engines = [open_folder(tmp_path, IDENTITY, 1_000) for _ in range(3)]
    assert [engine.path.name for engine in engines] == ["0", "1", "2"]
    engines[1].close()
    again = open_folder(tmp_path, IDENTITY, 1_000)
    assert again.path == engines[1].path
    for engine in (engines[0], engines[2], again):
        engine.close()


def test_what_no_engine_uses_makes_room_the_longest_unused_first(tmp_path: Path) -> None:
    paths = []
    for number in range(4):
        folder = open_folder(tmp_path, {**IDENTITY, "number": number}, 1 << 30)
        (folder.path / "blocks").write_bytes(bytes(8_192))
        for file in folder.path.iterdir():
            os.utime(file, (number, number))
        paths.append(folder.path)
        if number != 1:
            folder.close()
    kept_by_engine = folder
    own = open_folder(tmp_path, IDENTITY, 2 * 2 * 8_192 + 100)
    # Of the room half is for others: two of them, and one is in use.
    assert [path.exists() for path in paths] == [False, True, False, True]
    assert not paths[0].parent.exists()
    assert own.num_bytes == 2 * 8_192 + 100
    own.close()
    assert kept_by_engine.path == paths[3]


@pytest.mark.parametrize("kind", ["file", "link", "file above"])
def test_what_cannot_be_our_folder_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "kv"
    if kind == "file above":
        root.write_text("")
    else:
        root.mkdir()
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir(mode=0o755)
        if kind == "link":
            (root / OWN_FOLDER).symlink_to(elsewhere)
        else:
            (root / OWN_FOLDER).write_text("")
        assert mode(elsewhere) == "0o755"
    with pytest.raises(OffloadFolderUnusable, match=f"--kv-offload-dir {root} cannot be used"):
        open_folder(root, IDENTITY, 1_000)
