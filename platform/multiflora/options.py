"""The options of an engine in a Python program, under vLLM's names and ours: checked, and turned into the engine's.

vllm_options/ says what each means; knows which of them are a server's and no engine's.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from multiflora_engine.protocol.config import EngineConfig
from multiflora_platform.model_files import ModelFiles
from multiflora_platform.settings import ConfigurationError, Settings
from multiflora_platform.vllm_options.accept import accept
from multiflora_platform.vllm_options.engine import ENGINE
from multiflora_platform.vllm_options.model import MODEL

_log = logging.getLogger(__name__)

# The engine's tokenizer is what the front end has made of the files.
_OF_ENGINE = ((set(EngineConfig.__struct_fields__) & set(Settings.model_fields)) | {"num_threads"}) - {"tokenizer"}
_OF_FILES = {field.name for field in fields(ModelFiles)} - {"model"}
_OF_LOGS = {"disable_log_stats", "disable_log_requests", "enable_log_requests"}
NAMES = (_OF_ENGINE | _OF_FILES | {*MODEL, *ENGINE} | _OF_LOGS | {"replicas"}) - {"model", "lora_modules"}
"""Of every option but the model; adapters come with requests."""
_WITHOUT_ADAPTERS = {"max_loras": 1, "max_cpu_loras": 1}
"""The least that an engine takes."""


@dataclass(frozen=True)
class ProgramOptions:
    """Made by `program_options`."""

    files: ModelFiles
    engine: Mapping[str, Any]
    """Fields of EngineConfig, of those that were given."""


def program_options(owner: str, model: str | Path | None, options: Mapping[str, object]) -> ProgramOptions:
    """owner: whose options they are, for messages. An option that has no effect is logged.

    Raises TypeError for a name that is none, with the nearest; ValueError for what cannot be.
    """
    if model is None:
        raise TypeError(f"{owner} needs a model: a folder, or a Hugging Face id")
    for name in options:
        if name not in NAMES:
            near = difflib.get_close_matches(name, sorted(NAMES), n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{owner} has no option {name!r}{meant}")
    given = dict(options)
    threads = given.pop("num_threads", None)
    try:
        accepted, notices = accept(given)
        settings = Settings(**accepted)  # type: ignore[arg-type]
    except ConfigurationError as error:
        raise ValueError(str(error)) from None
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ValueError(f"{name}: {first['msg'].removeprefix('Value error, ')} (got {first['input']!r})") from None
    for notice in notices:
        _log.warning("%s", notice)
    engine = {name: getattr(settings, name) for name in accepted if name in _OF_ENGINE}
    if threads is not None:
        engine["num_threads"] = threads
    if settings.replicas > 1:
        engine["engines_per_host"] = settings.replicas
    if not settings.enable_lora:
        engine |= _WITHOUT_ADAPTERS
    files = {name: getattr(settings, name) for name in accepted if name in _OF_FILES}
    return ProgramOptions(ModelFiles(model=model, **files), engine)
