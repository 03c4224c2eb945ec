"""The artifact store: content decides the place, adding is atomic and can be repeated, damage is found and mended."""

from __future__ import annotations

import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from multiflora_adapters.lora_config import parse_config
from multiflora_adapters.manifest import manifest_digest, read_manifest
from multiflora_adapters.report import AdapterError
from multiflora_adapters.store import ArtifactStore

FILES = ["adapter_config.json", "adapter_model.safetensors"]


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path / "artifacts")


def entries(store: ArtifactStore) -> list[str]:
    return sorted(path.name for path in store.path("0" * 64).parent.iterdir())


def test_add_keeps_both_files_byte_for_byte(store, peft_adapter):
    source = peft_adapter("plain")
    manifest = store.add(source)
    folder = store.path(manifest.digest)
    assert sorted(path.name for path in folder.iterdir()) == FILES
    for name in FILES:
        assert (folder / name).read_bytes() == (source / name).read_bytes()
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert store.has(manifest.digest)
    assert store.verify(manifest.digest)
    assert store.digests() == [manifest.digest] == entries(store)


def test_the_source_may_vanish(store, broken):
    source = broken()
    digest = store.add(source).digest
    shutil.rmtree(source / "adapter_config.json", ignore_errors=True)
    (source / "adapter_model.safetensors").unlink()
    assert store.verify(digest)


def test_a_stored_versions_digest_stays_what_it_was():
    """Stores of earlier versions are found again: fields that are read since then do not count twice."""
    raw = {"r": 4, "lora_alpha": 16, "target_modules": ["v_proj", "q_proj"], "rank_pattern": {"q_proj": 2, "a": 3}}
    raw |= {"alpha_pattern": {"o": 2}, "layers_to_transform": [1], "bias": "all", "lora_bias": True}
    expected = "dc2f6c318303ae988eac1b01aaf41047574b8c47f72649ccd548049ac45c87ff"
    assert manifest_digest(parse_config(raw), {"a": "b" * 64, "c": "d" * 64}) == expected


def test_digest_depends_on_content_alone(store, peft_adapter, broken, tmp_path):
    first = store.add(peft_adapter("plain")).digest
    copy = Path(shutil.copytree(peft_adapter("plain"), tmp_path / "other-name"))
    assert store.add(copy).digest == first
    assert store.add(broken(config={"lora_alpha": 17})).digest != first
    assert len(store.digests()) == 2


def test_manifest_facts(store, peft_adapter):
    manifest = store.add(peft_adapter("patterns"))
    assert manifest == read_manifest(peft_adapter("patterns"))
    assert manifest.max_rank == 12
    assert manifest.dtype == "float32"
    assert manifest.num_bytes == manifest.num_parameters * 4
    assert manifest.target_modules == (
        "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj",
    )  # fmt: skip
    assert read_manifest(peft_adapter("bfloat16")).dtype == "bfloat16"
    embedding = read_manifest(peft_adapter("embedding"))
    assert embedding.num_parameters == 4 * (80 + 64) * 2 + 2 * 4 * 128, "the base's copies are not the adapter's"


def test_concurrent_adds(store, peft_adapter):
    with ThreadPoolExecutor(8) as threads:
        digests = {m.digest for m in threads.map(store.add, [peft_adapter("plain")] * 16)}
    assert len(digests) == 1
    assert entries(store) == sorted(digests)
    assert store.verify(digests.pop())


def test_damage_is_found_and_mended(store, peft_adapter):
    digest = store.add(peft_adapter("plain")).digest
    path = store.path(digest) / "adapter_model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert store.has(digest)
    assert not store.verify(digest)
    assert store.add(peft_adapter("plain")).digest == digest
    assert store.verify(digest)


def test_remove(store, peft_adapter):
    digest = store.add(peft_adapter("plain")).digest
    store.remove(digest)
    store.remove(digest)
    assert not store.has(digest)
    assert not store.verify(digest)
    assert entries(store) == []


def test_unreadable_content_leaves_nothing(store, broken):
    folder = broken()
    (folder / "adapter_model.safetensors").write_bytes(b"junk")
    with pytest.raises(AdapterError):
        store.add(folder)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError):
        store.add(folder)
    assert entries(store) == []


@pytest.mark.parametrize("digest", ["", "..", "A" * 64, "0" * 63, "0" * 64 + "/x", "../" + "0" * 61])
def test_what_is_no_digest_never_becomes_a_path(store, digest):
    with pytest.raises(ValueError, match="digest"):
        store.path(digest)


def test_abandoned_folders_are_cleared(store, tmp_path):
    root = tmp_path / "artifacts"
    old, young = root / ".tmp-old", root / ".tmp-young"
    old.mkdir()
    young.mkdir()
    os.utime(old, (1.0, 1.0))
    ArtifactStore(root)
    assert entries(store) == [".tmp-young"]
