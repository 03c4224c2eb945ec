"""What an adapter is, for people who choose and plan: ranks, targets, sizes on disk and on the device. Torch-free."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec

from multiflora_adapters.base_model import BaseModel
from multiflora_adapters.kv_reach import kv_reach, sha256_in
from multiflora_adapters.layout import plan_layout
from multiflora_adapters.lora_config import CONFIG_NAME, parse_config, read_raw_config
from multiflora_adapters.manifest import read_manifest
from multiflora_adapters.tensor_file import WEIGHTS_NAME, read_tensor_file
from multiflora_adapters.tensor_names import module_end, split_tensor_name

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


class AdapterFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the API shows of a version; `read_facts` fills it once validation has passed."""

    rank: int  # the largest of its tensors
    alpha: float  # lora_alpha
    targets: tuple[str, ...]  # last name parts of the touched modules, sorted
    rslora: bool
    dora: bool
    alora: bool  # whether it is an activated LoRA
    invocation_tokens: tuple[int, ...]  # of an activated LoRA: the tokens from which on it computes
    dtype: str  # as the manifest has it
    num_parameters: int
    num_bytes: int  # in the file
    bytes_per_module: dict[str, int]  # in the file, by target
    # What the adapter takes of the device when it is served in its own dtype (half of float32 in bfloat16): `rank` rows
    # at every linear of the base, its LoRA on experts, and the rows of embedding and head that it has instead of the
    # base's.
    device_bytes: int
    # What its KV is known by: `digest` of the part of the adapter that reaches keys and values, null where it is the
    # base's. Versions share cached blocks where it is equal.
    kv_digest: str | None


def read_facts(folder: Path, base: BaseModel) -> AdapterFacts:
    """Of a folder that validation has passed. Raises AdapterError, OSError."""
    config = parse_config(read_raw_config(folder / CONFIG_NAME))
    manifest = read_manifest(folder)
    sizes: Counter[str] = Counter()
    weights = read_tensor_file(folder / WEIGHTS_NAME)
    tensors = weights.tensors
    for name, entry in tensors.items():
        place = split_tensor_name(name)
        if place is not None:
            sizes[module_end(place[0])] += entry.num_bytes
    layout = plan_layout(config, tensors, base)
    replaced = {tensor.name: tensor for tensor in layout.replaced}
    for name, tensor in replaced.items():
        sizes[tensor.sites[0].rpartition(".")[2]] += tensors[name].num_bytes
    reach = kv_reach(config, layout, weights, manifest.digest, sha256_in(weights))
    rows = layout.pool_rank(base) * _row_elements(base, manifest.target_modules)
    elements = rows + layout.expert_elements(base) + sum(tensors[name].num_elements for name in replaced)
    return AdapterFacts(
        rank=manifest.max_rank,
        alpha=config.lora_alpha,
        targets=manifest.target_modules,
        rslora=config.use_rslora,
        dora=config.use_dora,
        alora=reach.invocation != (),
        invocation_tokens=reach.invocation,
        dtype=manifest.dtype,
        num_parameters=manifest.num_parameters,
        num_bytes=manifest.num_bytes,
        bytes_per_module=dict(sorted(sizes.items())),
        device_bytes=elements * _BYTES.get(manifest.dtype, 4),
        kv_digest=reach.digest,
    )


def _row_elements(base: BaseModel, targets: tuple[str, ...]) -> int:
    """Elements of one rank row: at every layer's linear, and at embedding and head only when they are touched."""
    return sum(
        site.in_features + site.out_features
        for site in base.sites.values()
        if site.layer is not None or site.name.rpartition(".")[2] in targets
    )
