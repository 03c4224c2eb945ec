"""From the tensors of a checkpoint's files to the dense tensors that can be read out of them."""

from __future__ import annotations

from collections.abc import Mapping

from multiflora_engine.models.checkpoint import StoredTensor
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.quantisation.awq import AwqTensor
from multiflora_engine.models.quantisation.bitsandbytes import FourBitTensor
from multiflora_engine.models.quantisation.compressed import Nvfp4Tensor, PackedTensor
from multiflora_engine.models.quantisation.dense_source import DenseSource
from multiflora_engine.models.quantisation.gptq import GptqTensor
from multiflora_engine.models.quantisation.mxfp4 import Mxfp4Tensor
from multiflora_engine.models.quantisation.plain import PlainTensor
from multiflora_engine.models.quantisation.quantised_tensor import QuantisedTensor
from multiflora_engine.models.quantisation.scaled import ScaledTensor
from multiflora_engine.models.quantisation.settings import (
    AwqSettings,
    BitsAndBytesSettings,
    GptqSettings,
    Mxfp4Settings,
    Nvfp4Settings,
    PackedSettings,
    Quantisation,
    ScaledSettings,
    Settings,
)

Parts = Mapping[str, StoredTensor]

# The ends of names that only a quantised linear has.
_MARKS = {".qweight", ".qzeros", ".scales", ".g_idx", ".weight_packed", ".weight_scale", ".weight_scale_inv", ".SCB"}
_MARKS |= {".weight.absmax", ".weight.quant_map", "_blocks", "_scales"}
_QUANTISED_TYPES = ("I8", "U8", "F8_E4M3", "F8_E5M2")
_PARTS = _MARKS | {".weight", ".weight_shape", ".weight_zero_point", ".weight_g_idx", ".weight_global_scale"}
_PARTS |= {".weight_format", ".weight.nested_absmax", ".weight.nested_quant_map"}
_PARTS |= {f".weight.quant_state.bitsandbytes__{kind}" for kind in ("nf4", "fp4")}
# Scales of activations and of the KV cache, which are not quantised here.
_UNUSED = {".input_scale", ".output_scale", ".k_scale", ".v_scale", ".q_scale", ".kv_scale", ".input_zero_point"}
_UNUSED |= {".input_global_scale"}


def dense_sources(stored: Parts, quantisation: Quantisation | None) -> dict[str, DenseSource]:
    """stored: by name. Every dense tensor of the checkpoint by its name, in the same order. Raises ModelError where
    the files and config.json do not agree on what is quantised."""
    modules: dict[str, dict[str, StoredTensor]] = {}
    for name, tensor in stored.items():
        module, ending = _split(name)
        modules.setdefault(module, {})[ending] = tensor
    if quantisation is None:
        if named := [module for module, parts in modules.items() if _MARKS & parts.keys()]:
            raise ModelError(
                f"{named[0]} is quantised, but config.json has no quantization_config. Download the model again."
            )
        return {name: PlainTensor(name, tensor) for name, tensor in stored.items()}
    quantised = {module: parts for module, parts in modules.items() if _is_quantised(parts)}
    _check_agreement(modules, quantised, quantisation)
    sources: dict[str, DenseSource] = {}
    for module, parts in modules.items():
        settings = quantisation.of(module) if module in quantised else None
        if settings is not None:
            source = _quantised(module, parts, settings)
            sources[source.name] = source
            # What no form knows might change what the linear computes: the loader refuses it by name.
            parts = {ending: part for ending, part in parts.items() if ending not in _PARTS}
        for ending, plain in parts.items():
            if ending not in _UNUSED:
                sources[module + ending] = PlainTensor(module + ending, plain)
    return sources


def _split(name: str) -> tuple[str, str]:
    """(module, end of the name): bitsandbytes stores model.norm.weight.absmax beside model.norm.weight."""
    module, inside, rest = name.partition(".weight.")
    if inside:
        return module, inside + rest
    for ending in ("_blocks", "_scales"):
        if name.endswith(ending):
            return name.removesuffix(ending), ending
    module, dot, ending = name.rpartition(".")
    return module, dot + ending


def _is_quantised(parts: Parts) -> bool:
    return bool(_MARKS & parts.keys()) or (".weight" in parts and parts[".weight"].dtype in _QUANTISED_TYPES)


def _check_agreement(modules: Mapping[str, Parts], quantised: Mapping[str, Parts], quantisation: Quantisation) -> None:
    if not quantised:
        raise ModelError(
            f"config.json says that the checkpoint is quantised ({quantisation.method}), but none of its tensors is. "
            "Remove quantization_config, or download the model again."
        )
    for module in quantised:
        if quantisation.of(module) is None:
            raise ModelError(f"{module} is quantised, but config.json's quantization_config leaves it out. {_TOGETHER}")
    kinds = {module.rpartition(".")[2] for module in quantised}
    for module in modules.keys() - quantised.keys():
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
        case PackedSettings():
            return PackedTensor(module, parts, settings)
        case Nvfp4Settings():
            return Nvfp4Tensor(module, parts, settings)
        case ScaledSettings():
            return ScaledTensor(module, parts, settings)
        case BitsAndBytesSettings():
            return FourBitTensor(module, parts, settings)
        case Mxfp4Settings():
            return Mxfp4Tensor(module, parts, settings)


_TOGETHER = "Do config.json and the weights belong together?"
