"""Checkpoints with one tensor for all experts of a layer, as transformers 5 has them in memory, read as those in which
each expert has its own. Torch-free: knows names and shapes, no values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from multiflora_adapters.base_model import Site
from multiflora_engine.models.checkpoint import StoredTensor
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.errors import ModelError

Stacked = tuple[tuple[Site, ...], ...]
"""Of each expert, the linears whose rows follow one another in a fused tensor [E, N, K]."""

# Tensors of gpt-oss beside the weight itself, that tensor as MXFP4 among them -> the ends of each expert's own.
_OTHER_PARTS = {"_bias": ".bias", "_blocks": "_blocks", "_scales": "_scales"}


def unfused(stored: Mapping[str, StoredTensor], config: ModelConfig) -> dict[str, StoredTensor]:
    """stored: by name, in the order of their bytes. The same tensors, those of all experts cut into those of each, and
    routers and experts by the names that the family's own checkpoints have.

    Raises ModelError for a fused tensor that config.json does not account for.
    """
    if config.form.mixture is None:
        return dict(stored)
    root = config.form.modules.root
    # Checkpoints without a head leave out the common beginning of all names.
    left_out = "" if any(name.startswith(root) for name in stored) else root
    fused, renamed = _fused_tensors(config), _other_names(config)
    tensors: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        path = left_out + name
        if path in fused:
            cut = _cut_turned if config.form.mixture.is_interleaved else _cut
            pieces = {piece.removeprefix(left_out): part for piece, part in cut(name, tensor, fused[path])}
        else:
            pieces = {_renamed(path, renamed).removeprefix(left_out): tensor}
        if both := [piece for piece in pieces if piece in tensors or (piece in stored and piece != name)]:
            raise ModelError(f"The checkpoint has {both[0]}, and {name}, which is the same. Save the model again.")
        tensors |= pieces
    return tensors


def _sparse_layers(config: ModelConfig) -> Iterator[tuple[int, Stacked, Stacked]]:
    """(layer, gate and up of each expert, down of each)."""
    for layer in range(config.num_layers):
        if (mixture := config.mixture(layer)) is not None:
            experts = config.expert_sites(layer, mixture)
            yield layer, tuple(sites.up for sites in experts), tuple((sites.down,) for sites in experts)


def _fused_tensors(config: ModelConfig) -> dict[str, Stacked]:
    fused: dict[str, Stacked] = {}
    for layer, ups, downs in _sparse_layers(config):
        experts = config.experts_in_transformers(layer)
        fused |= {f"{experts}.gate_up_proj": ups, f"{experts}.down_proj": downs}
    if config.form.mixture is not None and config.form.mixture.is_interleaved:
        fused |= {f"{name}{end}": sites for name, sites in fused.items() for end in _OTHER_PARTS}
    return fused


def _other_names(config: ModelConfig) -> dict[str, str]:
    """What transformers 5 calls a router or the experts of a layer -> what the family's own checkpoints do."""
    renamed = {}
    for layer, _, _ in _sparse_layers(config):
        assert config.form.mixture is not None, "a sparse layer has one"
        names = config.form.mixture.names
        renamed[config.module(layer, names.router_in_transformers)] = config.module(layer, names.router)
        renamed[config.experts_in_transformers(layer)] = config.module(layer, names.experts)
    return {there: here for there, here in renamed.items() if there != here}


def _renamed(path: str, renamed: Mapping[str, str]) -> str:
    return next(
        (here + path.removeprefix(there) for there, here in renamed.items() if path.startswith(f"{there}.")), path
    )


def _cut(name: str, tensor: StoredTensor, experts: Stacked) -> Iterator[tuple[str, StoredTensor]]:
    """The linears of each expert: their rows lie one after another."""
    columns = experts[0][0].in_features
    shape = (len(experts), sum(site.out_features for site in experts[0]), columns)
    if tensor.shape != shape:
        raise ModelError(
            f"{name} has the shape {list(tensor.shape)}; config.json says {list(shape)}. Do config.json and the "
            "weights belong together?"
        )
    row_bytes = tensor.num_bytes // (shape[0] * shape[1])
    begin = tensor.begin
    for site in (site for linears in experts for site in linears):
        size = site.out_features * row_bytes
        yield f"{site.name}.weight", replace(tensor, shape=(site.out_features, columns), begin=begin, num_bytes=size)
        begin += size


def _cut_turned(name: str, tensor: StoredTensor, experts: Stacked) -> Iterator[tuple[str, StoredTensor]]:
    """The one linear of each expert, [K, N] or a part of it; what shapes they have to have, the loader says."""
    if not tensor.shape or tensor.shape[0] != len(experts):
        raise ModelError(
            f"{name} has the shape {list(tensor.shape)}; config.json says that there are {len(experts)} experts. Do "
            "config.json and the weights belong together?"
        )
    ending = next((own for end, own in _OTHER_PARTS.items() if name.endswith(end)), ".weight")
    size = tensor.num_bytes // len(experts)
    for expert, (site,) in enumerate(experts):
        part = replace(tensor, shape=tensor.shape[1:], begin=tensor.begin + expert * size, num_bytes=size)
        yield f"{site.name}{ending}", part
