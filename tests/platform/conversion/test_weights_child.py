"""Pickled weights to safetensors: bit by bit, shared memory, shards; what is damaged or hostile."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from multiflora_engine.models.checkpoint import stored_tensors
from multiflora_platform.conversion import weights_child
from multiflora_platform.conversion.child import ConversionError
from multiflora_platform.conversion.weights_child import convert_pickles

HEAD = torch.randn(5, 3)
TENSORS = {
    "embedding": HEAD,
    "head": HEAD,
    "turned": HEAD.t(),
    "rows": HEAD[1:3],
    "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "empty": torch.empty(0, 4),
    "half": torch.randn(3).half(),
    "brain": torch.randn(3).bfloat16(),
    "eighth": torch.randn(3).to(torch.float8_e4m3fn),
    "ids": torch.arange(4),
    "mask": torch.tensor([True, False]),
}


class Trap:
    """Runs a command where a pickle is opened without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def equal(made: dict[str, torch.Tensor], given: dict[str, Any]) -> bool:
    return made.keys() == given.keys() and all(
        made[name].dtype == tensor.dtype
        and made[name].shape == tensor.shape
        and torch.equal(made[name].contiguous().view(torch.uint8), tensor.detach().contiguous().view(torch.uint8))
        if tensor.dim()
        else torch.equal(made[name], tensor)
        for name, tensor in given.items()
    )


@pytest.mark.parametrize("is_archive", [True, False])
def test_tensors_keep_names_types_and_bits(is_archive: bool, tmp_path: Path) -> None:
    """Also those of files from before torch 1.6, and those that share memory."""
    # The old format knows no eighths.
    given = {name: tensor for name, tensor in TENSORS.items() if is_archive or name != "eighth"}
    torch.save(given, tmp_path / "a.bin", _use_new_zipfile_serialization=is_archive)
    convert_pickles([tmp_path / "a.bin"], tmp_path)
    assert equal(load_file(tmp_path / "model.safetensors"), given)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.bin", "model.safetensors"]


def test_shards_have_an_index_that_names_each_tensor(tmp_path: Path) -> None:
    files = [tmp_path / "1.bin", tmp_path / "2.bin"]
    weights = {f"w{i}": torch.randn(10, 10) for i in range(5)}
    torch.save({name: weights[name] for name in ("w0", "w1", "w2")}, files[0])
    torch.save({name: weights[name] for name in ("w3", "w4")}, files[1])
    convert_pickles(files, tmp_path, shard_bytes=800)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["metadata"] == {"total_size": 2000}
    shards = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert index["weight_map"] == {"w0": shards[0], "w1": shards[0], "w2": shards[1], "w3": shards[2], "w4": shards[2]}
    assert stored_tensors(tmp_path).keys() == weights.keys()
    assert equal({name: tensor for shard in shards for name, tensor in load_file(tmp_path / shard).items()}, weights)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(2)], "no dictionary of tensors"),
        ({}, "no dictionary of tensors"),
        ({"epoch": 3, "w": torch.ones(2)}, "'epoch', a int and no tensor"),
        ({"model": {"w": torch.ones(2)}}, "'model', a dict and no tensor"),
        ({3: torch.ones(2)}, "'3'"),
        ({"w": torch.ones(2, 2).to_sparse()}, "w is a torch.sparse_coo"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "w is a torch.strided of torch.complex64"),
        ({"w": torch.ones(2, device="meta")}, "a.bin"),
        ({"w": torch.ones(1).expand(1 << 40)}, "w makes the tensors larger than the files"),
        ({"w" * 500: torch.ones(2, dtype=torch.complex64)}, "www is a torch.strided"),
    ],
)
def test_what_is_no_model_is_named(content: Any, words: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.bin")
    with pytest.raises(ConversionError, match=r"a\.bin") as caught:
        convert_pickles([tmp_path / "a.bin"], tmp_path / "made")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_tensor_of_two_files_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "a.bin")
    with pytest.raises(ConversionError, match="w is there twice"):
        convert_pickles([tmp_path / "a.bin", tmp_path / "a.bin"], tmp_path)


@pytest.mark.parametrize("form", ["archive", "old", "plain", "deep"])
def test_code_in_a_pickle_is_not_run(form: str, tmp_path: Path) -> None:
    mark, file = tmp_path / "ran", tmp_path / "a.bin"
    content = {"w": torch.ones(2), "x": [Trap(mark)] if form == "deep" else Trap(mark)}
    if form == "plain":
        file.write_bytes(pickle.dumps({"x": Trap(mark)}, protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form != "old")
    with pytest.raises(ConversionError, match=r"a\.bin cannot be read as weights: it asks for posix\.mkdir, which is"):
        convert_pickles([file], tmp_path)
    assert not mark.exists()


def test_the_process_is_confined_before_it_opens_a_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: dict[str, int] = {}

    def confine(**given: int) -> None:
        assert not (tmp_path / "model.safetensors").exists()
        limits.update(given)

    torch.save(TENSORS, tmp_path / "a.bin")
    size = (tmp_path / "a.bin").stat().st_size
    monkeypatch.setattr(weights_child, "confine", confine)
    monkeypatch.setattr("sys.argv", ["weights_child", str(tmp_path), str(tmp_path), "7", "a.bin"])
    weights_child.main()
    assert (limits["seconds"], limits["file_bytes"]) == (7, 2 * size + (1 << 20))
    assert limits["memory_bytes"] < 8 << 30
    assert (tmp_path / "model.safetensors").exists()


def again(whole: bytes, without: str = "nothing", compression: int = zipfile.ZIP_STORED) -> bytes:
    """The archive without its files whose names end so."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(made, "w", compression) as new:
        for name in (name for name in old.namelist() if not name.endswith(without)):
            new.writestr(name, old.read(name))
    return made.getvalue()


def test_damaged_files_say_so(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    torch.save(TENSORS, file)
    whole = file.read_bytes()
    broken = [b"", b"nonsense", whole[: len(whole) // 2], bytes(len(whole))]
    broken += [again(whole, "data.pkl"), again(whole, "/data/0"), again(whole, compression=zipfile.ZIP_DEFLATED)]
    for damaged in broken:
        file.write_bytes(damaged)
        with pytest.raises(ConversionError, match=r"a\.bin cannot be read as weights: \S"):
            convert_pickles([file], tmp_path)
