"""What an engine on this machine would choose where settings leave it to the device. Starts none, imports no torch."""

from __future__ import annotations

from pathlib import Path

from multiflora_engine.execution.step_sizes import sized
from multiflora_engine.models.errors import ModelError
from multiflora_engine.protocol.config import SizedConfig
from multiflora_platform.base_models.opening import ServedBase, engine_config, open_model
from multiflora_platform.observability.machine import usable_gpu
from multiflora_platform.settings import ConfigurationError, Settings


def local_base(settings: Settings) -> ServedBase | None:
    """The base model, or None for one of the hub: nothing is downloaded. Raises ConfigurationError."""
    is_here = settings.model is None or Path(settings.model).expanduser().is_dir()
    return open_model(settings) if is_here else None


def sizes_of(settings: Settings, base: ServedBase) -> SizedConfig:
    """On the first GPU, where one can be used, else on the CPU. Raises ConfigurationError where weights are missing."""
    gpu = None if settings.device == "cpu" else usable_gpu()
    memory = None if gpu is None else gpu.memory_total
    try:
        return sized(engine_config(settings, base, settings.data_dir / "artifacts"), base.config, memory)
    except ModelError as error:
        raise ConfigurationError(str(error)) from None


def expected_sizes(settings: Settings) -> SizedConfig | None:
    """None where the model is not here. Raises ConfigurationError."""
    base = local_base(settings)
    return None if base is None else sizes_of(settings, base)
