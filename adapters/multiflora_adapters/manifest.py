"""An adapter version's identity and facts, read from its folder alone. Torch-free; knows no base model.

Identity is content: the digest covers the normalised configuration and the bytes of both files, never a name or a path.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from multiflora_adapters.experts.layout import wrapped_rank
from multiflora_adapters.lora_config import (
    CONFIG_NAME,
    AdapterConfig,
    is_regular_file,
    parse_config,
    read_raw_config,
)
from multiflora_adapters.module_patterns import ModuleMatcher
from multiflora_adapters.report import AdapterError, error
from multiflora_adapters.tensor_file import WEIGHTS_NAME, TensorFile, read_tensor_file
from multiflora_adapters.tensor_names import module_end, split_tensor_name

ARTIFACT_FILES = (CONFIG_NAME, WEIGHTS_NAME)
# The model card: for people, no part of the identity, and never required.
CARD_NAME = "README.md"
_HASH_BYTES = 1 << 20


class ArtifactFile(msgspec.Struct, frozen=True):
    """One file of the artifact, as `hash_file` found it."""

    sha256: str  # hex
    size: int  # bytes


class AdapterManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an adapter without its base model; `read_manifest` fills it from the two files."""

    digest: str  # the adapter's identity (manifest_digest), SHA-256 hex
    files: dict[str, ArtifactFile]  # by name: ARTIFACT_FILES
    config: AdapterConfig
    base_model_name_or_path: str | None  # as the configuration names it, unchecked
    max_rank: int  # the largest of any A in the file; of all experts at once, the rank of each
    dtype: str  # of the LoRA tensors; "mixed" if they differ
    num_parameters: int  # of the LoRA tensors
    num_bytes: int  # of the LoRA tensors, in the file
    target_modules: tuple[str, ...]  # last name parts of the touched modules, sorted


def read_manifest(folder: Path) -> AdapterManifest:
    """The manifest of a folder with both files. Raises AdapterError for unreadable content, OSError for a bad disk."""
    config = parse_config(read_raw_config(folder / CONFIG_NAME))
    weights = read_tensor_file(folder / WEIGHTS_NAME)
    files = {name: hash_file(folder / name) for name in ARTIFACT_FILES}
    lora = {name: entry for name, entry in weights.tensors.items() if _is_lora(name)}
    dtypes = {entry.dtype for entry in lora.values()}
    return AdapterManifest(
        digest=manifest_digest(config, {name: file.sha256 for name, file in files.items()}),
        files=files,
        config=config,
        base_model_name_or_path=config.base_model_name_or_path,
        max_rank=_max_rank(weights, config),
        dtype=_DTYPE_NAMES.get(dtypes.pop(), "mixed") if len(dtypes) == 1 else "mixed",
        num_parameters=sum(entry.num_elements for entry in lora.values()),
        num_bytes=sum(entry.num_bytes for entry in lora.values()),
        target_modules=tuple(sorted({module_end(place[0]) for n in lora if (place := split_tensor_name(n))})),
    )


def manifest_digest(config: AdapterConfig, sha256_by_file: dict[str, str]) -> str:
    """SHA-256 hex of the canonical JSON of the normalised configuration and each file's SHA-256."""
    canonical = msgspec.json.encode({"config": config.identity, "files": sha256_by_file}, order="deterministic")
    return hashlib.sha256(canonical).hexdigest()


def hash_file(path: Path) -> ArtifactFile:
    """SHA-256 and size. Raises AdapterError when there is no such regular file."""
    if not is_regular_file(path):
        raise AdapterError(error("file", f"{path.name} is missing."))
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(_HASH_BYTES):
            digest.update(piece)
            size += len(piece)
    return ArtifactFile(digest.hexdigest(), size)


_DTYPE_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def _is_lora(name: str) -> bool:
    place = split_tensor_name(name)
    return place is not None and place[1] != "base_layer"


def _max_rank(weights: TensorFile, config: AdapterConfig) -> int:
    matcher = ModuleMatcher(config)
    ranks = [0]
    for name, entry in weights.tensors.items():
        module, kind = split_tensor_name(name) or ("", "")
        if entry.shape and kind in ("lora_A", "lora_embedding_A"):
            ranks.append(wrapped_rank(module, matcher) or entry.shape[0])
    return max(ranks)
