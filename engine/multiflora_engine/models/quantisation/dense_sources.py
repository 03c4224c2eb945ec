"""From the tensors of a checkpoint's files to the dense tensors that can be read out of them."""

from __future__ import annotations

from collections.abc import Mapping

from multiflora_engine.models.checkpoint import StoredTensor
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.quantisation.awq import AwqTensor
from multiflora_engine.models.quantisation.dense_source import DenseSource
from multiflora_engine.models.quantisation.gptq import GptqTensor
from multiflora_engine.models.quantisation.plain import PlainTensor
from multiflora_engine.models.quantisation.quantised_tensor import QuantisedTensor
from multiflora_engine.models.quantisation.settings import AwqSettings, GptqSettings, Quantisation, Settings

Parts = Mapping[str, StoredTensor]

# The ends of names that only a quantised linear has.
_MARKS = {".qweight", ".qzeros", ".scales", ".g_idx"}
# Scales of activations and of the KV cache, which are not quantised here.
_UNUSED = {".input_scale", ".output_scale", ".k_scale", ".v_scale"}


def dense_sources(stored: Parts, quantisation: Quantisation | None) -> dict[str, DenseSource]:
    """stored: by name. Every dense tensor of the checkpoint by its name, in the same order. Raises ModelError where
    the files and config.json do not agree on what is quantised."""
    modules: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in stored.items():
        module, ending = _split(name)
        modules.setdefault(module, {})[ending] = tensor
    quantised = [module for module, parts in modules.items() if _MARKS & parts.keys()]
    if quantisation is None:
        if quantised:
            raise ModelError(
                f"{quantised[0]} is quantised, but config.json has no quantization_config. Download the model again."
            )
        return {name: PlainTensor(name, tensor) for name, tensor in stored.items()}
    _check_agreement(modules, quantised, quantisation)
    sources: dict[str, DenseSource] = {}
    for module, parts in modules.items():
        settings = quantisation.of(module) if module in quantised else None
        if settings is not None:
            sources[f"{module}.weight"] = _quantised(module, parts, settings)
            parts = {".bias": parts[".bias"]} if ".bias" in parts else {}
        for ending, tensor in parts.items():
            if ending not in _UNUSED:
                sources[module + ending] = PlainTensor(module + ending, tensor)
    return sources


def _split(name: str) -> tuple[str, str]:
    """(module, end of the name): bitsandbytes stores model.norm.weight.absmax beside model.norm.weight."""
    module, inside, rest = name.partition(".weight.")
    if inside:
        return module, inside + rest
    module, dot, ending = name.rpartition(".")
    return module, dot + ending


def _check_agreement(modules: Mapping[str, Parts], quantised: list[str], quantisation: Quantisation) -> None:
    if not quantised:
        raise ModelError(
            f"config.json says that the checkpoint is quantised ({quantisation.method}), but none of its tensors is. "
            "Remove quantization_config, or download the model again."
        )
    for module in quantised:
        if quantisation.of(module) is None:
            raise ModelError(f"{module} is quantised, but config.json's quantization_config leaves it out. {_TOGETHER}")
    kinds = {module.rpartition(".")[2] for module in quantised}
    for module in modules.keys() - set(quantised):
        if module.rpartition(".")[2] in kinds and ".weight" in modules[module] and quantisation.of(module) is not None:
            raise ModelError(
                f"{module}.weight is not quantised, and config.json's quantization_config does not leave it out. "
                f"{_TOGETHER}"
            )


def _quantised(module: str, parts: Parts, settings: Settings) -> QuantisedTensor:
    match settings:
        case GptqSettings():
            return GptqTensor(module, parts, settings)
        case AwqSettings():
            return AwqTensor(module, parts, settings)


_TOGETHER = "Do config.json and the weights belong together?"
