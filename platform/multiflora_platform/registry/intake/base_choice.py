"""Which of several base models an adapter's files belong to. Whether they may be served on it, validation says."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from multiflora_adapters.base_model import BaseModel
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
    named = [link for link in candidates if _is_named(config.base_model_name_or_path, link)]
    if named:
        return named[0].base
    return next((link.base for link in candidates if _fits(config, tensors, link.base)), default)


def _is_named(trained_on: str | None, link: BaseLink) -> bool:
    names: Iterable[str] = (link.base.name, *link.names)
    return bool(trained_on) and _last_part(str(trained_on)) in {_last_part(name) for name in names}


def _last_part(name: str) -> str:
    """Of a path or a hub id: where a model lies differs from machine to machine."""
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()


def _fits(config: AdapterConfig, tensors: TensorFile, base: BaseModel) -> bool:
    try:
        rows = plan_layout(config, tensors.tensors, base).rows
    except AdapterError:
        return False
    return not any(row.severity == "error" for row in rows)
