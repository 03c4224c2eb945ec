"""What a gateway gives engines of its artifacts: their two files, a part at a time, and nothing else of its disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.platform.registry.house import adapter_files

from multiflora_adapters.store import ArtifactStore
from multiflora_engine.protocol.messages import ArtifactWanted
from multiflora_platform.fleet.hosts.artifact_files import ArtifactFiles


@pytest.fixture
def kept(tmp_path: Path) -> tuple[ArtifactFiles, str]:
    folder, store = tmp_path / "adapter", ArtifactStore(tmp_path / "artifacts")
    folder.mkdir()
    for name, content in adapter_files().items():
        (folder / name).write_bytes(content)
    return ArtifactFiles(store), store.add(folder).digest


def test_a_file_comes_part_by_part(kept: tuple[ArtifactFiles, str], monkeypatch: pytest.MonkeyPatch) -> None:
    files, digest = kept
    monkeypatch.setattr("multiflora_platform.fleet.hosts.artifact_files._PART_BYTES", 50)
    whole, read = adapter_files()["adapter_config.json"], b""
    while len(read) < len(whole):
        part = files.part(ArtifactWanted(digest, "adapter_config.json", len(read)))
        assert (part.size, part.is_missing) == (len(whole), False)
        read += part.data
    assert read == whole


def test_nothing_else_is_read(kept: tuple[ArtifactFiles, str], tmp_path: Path) -> None:
    files, digest = kept
    (tmp_path / "secret").write_text("s")
    for wanted in (
        ArtifactWanted("0" * 64, "adapter_config.json", 0),
        ArtifactWanted("..", "adapter_config.json", 0),
        ArtifactWanted(digest, "../../secret", 0),
        ArtifactWanted(digest, "adapter_config.json", -5),
    ):
        part = files.part(wanted)
        assert (part.data, part.size, part.is_missing) == (b"", 0, True)
    assert files.part(ArtifactWanted("0" * 64, "adapter_config.json", 0)).problem == "", "another gateway may have it"
