"""Reads a checkpoint into the decoder's stacked weights, straight from the files, so that memory peaks at their size.

Knows names and shapes, neither what the weights mean nor how they are stored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from multiflora_engine.models.allocation import FormOf, allocate_weights
from multiflora_engine.models.checkpoint import stored_tensors
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.families.form import ModuleNames
from multiflora_engine.models.families.fused_experts import unfused
from multiflora_engine.models.quantisation.dense_source import DenseSource
from multiflora_engine.models.quantisation.dense_sources import dense_sources
from multiflora_engine.models.quantisation.quantised_tensor import QuantisedTensor
from multiflora_engine.models.storage.choice import Storage
from multiflora_engine.models.storage.forms import forms
from multiflora_engine.models.targets import Target, WeightTarget
from multiflora_engine.models.tied_head import untangle_head
from multiflora_engine.models.weights import ModelWeights

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

_GIB = 1 << 30
# Buffers that older versions of transformers saved; they follow from the config.
_DERIVED = ("rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached")


def load_weights(
    folder: Path,
    config: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress | None = None,
    available: int | None = None,
    storage: Storage = "dense",
) -> ModelWeights:
    """The model's weights on `device` in `dtype`, its linears in `storage`. progress(done, total): bytes of the files.
    available: bytes that the weights may take; None where an allocation that is too large fails by itself.

    Raises ModelError for missing or damaged files, tensors that are missing, left over or of another shape, and when
    the weights do not fit into memory.
    """
    stored = unfused(stored_tensors(folder), config.whole)
    sources = _by_module(dense_sources(stored, config.quantisation), config.form.modules)
    if config.stage is not None:
        sources = _of_stage(sources, config)
    if config.tie_word_embeddings and config.has_ends:
        sources, config = untangle_head(sources, config, dtype)
    # The shapes are compared before any memory is taken for them.
    _check(
        sources, _turned(allocate_weights(config, dtype, torch.device("meta")).targets(), sources), config.form.modules
    )
    form_of = forms(config, sources, storage)
    needed = allocate_weights(config, dtype, torch.device("meta"), form_of).num_bytes
    if available is not None and needed > available:
        raise ModelError(_too_large(needed, available, dtype, config, storage))
    weights = _allocate(config, dtype, device, form_of)
    targets = _turned(weights.targets(), sources)
    _tell_of_dequantised(targets, sources, dtype)
    _fill(targets, {name: sources[name] for name in sources if name in targets}, progress or _silent)
    if weights.own_ends is not None:
        weights.own_ends.quantise_tied_head_()
    weights.leave_biases_to_first_rank_()
    return weights


def _silent(done: int, total: int) -> None:
    pass


def _too_large(needed: int, available: int, dtype: torch.dtype, config: ModelConfig, storage: Storage) -> str:
    narrower = ["--dtype bfloat16"] if dtype.itemsize > 2 and storage != "bfloat16" else []
    narrower += ["--quantization int8"] if storage in ("dense", "bfloat16") and config.quantisation is None else []
    advice = f", or with {' or '.join(narrower)}" if narrower else ""
    kept: dict[Storage, str] = {
        "dense": "", "bfloat16": " and linears in bfloat16", "as_stored": " and linears as the checkpoint has them"
    }  # fmt: skip
    types = str(dtype).removeprefix("torch.") + kept.get(storage, " and linears in integers")
    return (
        f"The weights take {needed / _GIB:.2f} GiB in {types}, and {available / _GIB:.2f} "
        "GiB are available of the machine's memory or the container's limit. Free memory, or serve a smaller model"
        f"{advice}."
    )


def _allocate(config: ModelConfig, dtype: torch.dtype, device: torch.device, form_of: FormOf) -> ModelWeights:
    try:
        return allocate_weights(config, dtype, device, form_of)
    except (MemoryError, RuntimeError) as error:
        raise ModelError(
            f"The weights do not fit into the memory of {device}: {str(error).splitlines()[0][:200]} "
            "Serve a smaller model, or with --dtype bfloat16."
        ) from error


def _by_module(sources: Mapping[str, DenseSource], modules: ModuleNames) -> dict[str, DenseSource]:
    """By the names of the modules. A decoder that was saved without its head leaves out their common beginning."""
    root = "" if any(name.startswith(modules.root) for name in sources) else modules.root
    heads = tuple(f"{head}." for head in (modules.head, modules.stored_head) if head is not None)
    named = {}
    for name, source in sources.items():
        is_head = name.startswith(heads)
        named[f"{modules.head}.{name.rpartition('.')[2]}" if is_head else root + name] = source
    return named


def _of_stage(sources: Mapping[str, DenseSource], config: ModelConfig) -> dict[str, DenseSource]:
    """Without what other stages read: their layers, embedding and head. What no stage accounts for stays."""
    meta = torch.device("meta")
    whole, own = (allocate_weights(part, torch.float32, meta).targets() for part in (config.whole, config))
    others = whole.keys() - own.keys()
    head = f"{config.form.modules.head}."  # also of a model whose head is tied, if the files have it
    is_of_other = {name: name in others or (not config.has_ends and name.startswith(head)) for name in sources}
    return {name: source for name, source in sources.items() if not is_of_other[name]}


def _check(sources: Mapping[str, DenseSource], targets: Mapping[str, WeightTarget], modules: ModuleNames) -> None:
    """A model that would be served only in part, or with weights left over, is refused."""
    missing = [name for name in targets if name not in sources]
    if missing:
        raise ModelError(f"The checkpoint lacks {_some(missing)}. Download or save the model again.")
    surplus = [name for name in sources if name not in targets and not _may_be_left(name, sources[name], modules)]
    if surplus:
        raise ModelError(
            f"The checkpoint has tensors that config.json does not account for: {_some(surplus)}. "
            "Do config.json and the weights belong together?"
        )
    for name, target in targets.items():
        sources[name].check()  # first: it names the very tensor that is damaged
        if sources[name].shape != target.stored_shape:
            raise ModelError(
                f"{name} has the shape {list(sources[name].shape)}; config.json says {list(target.stored_shape)}. "
                "Do config.json and the weights belong together?"
            )


def _turned(targets: Mapping[str, WeightTarget], sources: Mapping[str, DenseSource]) -> dict[str, WeightTarget]:
    """Quantised linears are [out, in], whatever way round the family's dense ones are stored."""
    return {
        name: target.as_rows() if isinstance(sources.get(name), QuantisedTensor) else target
        for name, target in targets.items()
    }


def _tell_of_dequantised(
    targets: Mapping[str, WeightTarget], sources: Mapping[str, DenseSource], dtype: torch.dtype
) -> None:
    """The operator may have chosen the checkpoint for its size."""
    quantised = [name for name, source in sources.items() if name in targets and isinstance(source, QuantisedTensor)]
    dense = [name for name in quantised if isinstance(targets[name], Target)]
    if dense:
        _log.warning(
            "%d of the checkpoint's %d quantised linears are served dequantised, in %s: they take the memory of "
            "unquantised ones.", len(dense), len(quantised), str(dtype).removeprefix("torch."),
        )  # fmt: skip


def _may_be_left(name: str, source: DenseSource, modules: ModuleNames) -> bool:
    if name.endswith((*_DERIVED, *modules.derived)) or not name.startswith((modules.root, f"{modules.head}.")):
        return True
    # Tools of GPTQ wrote one for each linear of models that have none.
    if not name.endswith(".bias") or len(source.shape) != 1:
        return False
    source.check()
    return not any(piece.any() for piece in source.pieces())


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _fill(targets: Mapping[str, WeightTarget], sources: Mapping[str, DenseSource], progress: Progress) -> None:
    """In the order of `sources`: that of their bytes in the files."""
    total = sum(source.num_bytes for source in sources.values())
    done = 0
    for name, source in sources.items():
        targets[name].fill_from(source)
        done += source.num_bytes
        progress(done, total)
