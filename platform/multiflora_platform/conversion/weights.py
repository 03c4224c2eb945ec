"""From a model folder with pickled weights (`pytorch_model.bin`) to one with safetensors, whole or not at all.

The pickles are opened by a confined process (weights_child.py); this one never reads them. Torch-free.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from multiflora_engine.models.checkpoint import INDEX_NAME, SINGLE_NAME, stored_tensors
from multiflora_engine.models.configuration.config_fields import read_json_object
from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.errors import ModelError
from multiflora_platform.conversion.child import ConversionError, run_child

PICKLE_NAME = "pytorch_model.bin"
PICKLE_INDEX_NAME = "pytorch_model.bin.index.json"
# What a folder holds beside weights: configuration, tokenizer, templates, its card and licence. No code.
_COPIED = ("*.json", "*.jinja", "*.txt", "*.model", "tokenizer.model.*", "*.tiktoken", "*.md", "LICENSE*", "NOTICE*")
_TEMPLATES = "additional_chat_templates"
# A slow disk's, below which a conversion is taken for one without end.
_BYTES_PER_SECOND = 10 << 20
_SECONDS = 300
_AGAIN = "Download or save the model again."


@dataclass(frozen=True)
class ConvertedModel:
    folder: Path
    num_tensors: int
    num_bytes: int
    """Of the tensors."""


def convert_weights(source: Path, destination: Path) -> ConvertedModel:
    """destination: a folder that does not exist yet, or is empty. Tensors keep their names, dtypes and bits; those that
    share memory are written in full each. Raises ModelError; then there is nothing at `destination`."""
    if (source / SINGLE_NAME).is_file() or (source / INDEX_NAME).is_file():
        raise ModelError(f"{source} has safetensors already. Serve it as it is.")
    names = _pickles(source)
    load_model_config(source)  # what would be refused later need not be converted
    num_bytes = sum((source / name).stat().st_size for name in names)
    with _scratch_beside(destination, num_bytes) as scratch:
        _convert(source, names, scratch, _SECONDS + num_bytes // _BYTES_PER_SECOND)
        tensors = stored_tensors(scratch)
        _copy_the_rest(source, scratch)
        _put(scratch, destination)
    return ConvertedModel(destination, len(tensors), sum(tensor.num_bytes for tensor in tensors.values()))


def _pickles(folder: Path) -> list[str]:
    """The files that make up the model. Raises ModelError when any is missing."""
    if not (folder / PICKLE_NAME).is_file() and (folder / PICKLE_INDEX_NAME).is_file():
        weight_map = read_json_object(folder / PICKLE_INDEX_NAME).get("weight_map")
        names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
        if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise ModelError(f"{folder / PICKLE_INDEX_NAME} does not map tensors to files in its own folder. {_AGAIN}")
    else:
        names = {PICKLE_NAME}
    if missing := sorted(name for name in names if not (folder / name).is_file()):
        raise ModelError(f"{folder} lacks {', '.join(missing[:4])}{' ...' * (len(missing) > 4)}. {_AGAIN}")
    return sorted(names)


@contextmanager
def _scratch_beside(destination: Path, num_bytes: int) -> Iterator[Path]:
    """A hidden folder on the destination's disk, gone at the end unless it was put there."""
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise ModelError(f"{destination} exists already. Give a new folder.")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(destination.parent).free) < num_bytes:
            raise ModelError(
                f"{destination.parent} has {free >> 20} MiB left, the weights need {num_bytes >> 20}. Give a folder on "
                "another disk."
            )
        scratch = destination.parent / f".{destination.name}-{uuid4().hex}"
        scratch.mkdir()
    except OSError as error:
        raise ModelError(f"{destination} cannot be made: {error.strerror}. Give a folder that you may write.") from None
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _convert(source: Path, names: list[str], scratch: Path, seconds: int) -> None:
    module = "multiflora_platform.conversion.weights_child"
    try:
        run_child(module, str(source), str(scratch), str(seconds), *names, seconds=seconds)
    except ConversionError as error:
        raise ModelError(f"The weights of {source} cannot be converted: {error}. {_AGAIN}") from None


def _copy_the_rest(source: Path, scratch: Path) -> None:
    files = {file for pattern in _COPIED for file in source.glob(pattern) if file.is_file()}
    try:
        for file in files - {source / PICKLE_INDEX_NAME}:
            shutil.copyfile(file, scratch / file.name)
        for shard in scratch.glob("*.safetensors"):  # which safetensors writes for its owner alone
            shutil.copymode(scratch / "config.json", shard)
        if (source / _TEMPLATES).is_dir():
            shutil.copytree(source / _TEMPLATES, scratch / _TEMPLATES)
    except OSError as error:
        raise ModelError(f"{error.filename} cannot be copied: {error.strerror}. Check space and permissions.") from None


def _put(scratch: Path, destination: Path) -> None:
    try:
        scratch.rename(destination)
    except OSError as error:
        raise ModelError(f"{destination} cannot be made: {error.strerror}. Give a new folder.") from None
