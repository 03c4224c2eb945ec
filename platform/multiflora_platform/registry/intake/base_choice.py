"""Which of several base models an adapter's files belong to. Whether they may be served on it, validation says."""

from __future__ import annotations

from pathlib import Path

from multiflora_adapters.base_model import BaseModel, model_name
from multiflora_adapters.layout import plan_layout
from multiflora_adapters.lora_config import CONFIG_NAME, AdapterConfig, parse_config, read_raw_config
from multiflora_adapters.report import AdapterError
from multiflora_adapters.tensor_file import WEIGHTS_NAME, TensorFile, read_tensor_file
from multiflora_platform.registry.serving.base_links import BaseLink, BaseLinks


def choose_base(folder: Path, links: BaseLinks) -> BaseModel:
    """The one that adapter_config.json names; else the first whose modules all tensors fit; else the default one, whose
    report then says what does not fit. Reads configuration and headers alone."""
    default = links.default.base
    candidates = list(links)
    if len(candidates) == 1:
        return default
    try:
        config = parse_config(read_raw_config(folder / CONFIG_NAME))
        tensors = read_tensor_file(folder / WEIGHTS_NAME)
    except (AdapterError, OSError):
        return default
    trained_on = config.base_model_name_or_path
    named = [link for link in candidates if trained_on and _is_named(trained_on, link)]
    if named:
        return named[0].base
    return next((link.base for link in candidates if _fits(config, tensors, link.base)), default)


def _is_named(trained_on: str, link: BaseLink) -> bool:
    return model_name(trained_on) in map(model_name, (link.base.name, *link.names))


def _fits(config: AdapterConfig, tensors: TensorFile, base: BaseModel) -> bool:
    try:
        rows = plan_layout(config, tensors.tensors, base).rows
    except AdapterError:
        return False
    return not any(row.severity == "error" for row in rows)
