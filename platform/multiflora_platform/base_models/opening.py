"""What a server can know and refuse before anything runs: the base model's folder, paths, and the data folder."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, fields
from pathlib import Path

from multiflora_adapters.base_model import BaseModel
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.errors import ModelError
from multiflora_engine.protocol.config import EngineConfig
from multiflora_platform.auth.secret import Secret
from multiflora_platform.demo import (
    MODEL_NAME,
    DemoAdapter,
    demo_adapters,
    demo_folder,
)
from multiflora_platform.groups import ServedModel
from multiflora_platform.messages.reasoning import REASONING_FORMATS
from multiflora_platform.messages.tool_formats import HARMONY, TOOL_FORMATS, ToolFormat, detect
from multiflora_platform.model_files import ModelFiles
from multiflora_platform.registry.sources.resolver import adapter_source
from multiflora_platform.settings import ConfigurationError, Settings
from multiflora_platform.text.errors import TokenizerError
from multiflora_platform.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedBase:
    """What can be known of the base model before anything runs."""

    served: ServedModel
    config: ModelConfig
    base: BaseModel
    demo: tuple[DemoAdapter, ...]


def warn_of_template(model: ServedModel) -> None:
    """What of its chat template keeps prompts from beginning with one another. Renders it some dozens of times."""
    for finding in model.tokenizer.template_findings:
        _log.warning("Prefix cache of %s: %s. %s", model.name, finding.found, finding.advice)


def open_model(settings: Settings) -> ServedBase:
    """Find and read the base model's folder. Raises ConfigurationError naming what is missing or unsupported."""
    demo: tuple[DemoAdapter, ...] = ()
    source: str | Path
    if settings.model is None:
        folder = demo_folder()
        source, demo = folder / "base", tuple(demo_adapters(folder)) if settings.enable_lora else ()
    else:
        source = settings.model
    shared = {field.name: getattr(settings, field.name) for field in fields(ModelFiles) if field.name != "model"}
    try:
        config, tokenizer = ModelFiles(model=source, **shared).open()
        config.check_division(settings.tensor_parallel_size)
        config.check_stages(settings.pipeline_parallel_size)
        name, *others = _names(settings)
        served = ServedModel(
            name=name,
            other_names=tuple(others),
            path=_path_name(settings),
            root=settings.model or MODEL_NAME,
            tokenizer=tokenizer,
            vocab_size=config.vocab_size,
            max_model_len=settings.max_model_len or config.max_position_embeddings,
            created=int(time.time()),
            generation_defaults=config.generation_defaults,
            eos_token_ids=frozenset(config.eos_token_ids),
            length_sets_rope=any(rope.kind in ("dynamic", "longrope") for rope in config.ropes),
            tool_format=_tool_format(settings, tokenizer),
            reasoning_format=REASONING_FORMATS.get(settings.reasoning_parser),
        )
        return ServedBase(served, config, config.base_model(name), demo)
    except (ModelError, TokenizerError) as error:
        raise ConfigurationError(str(error)) from None


def _names(settings: Settings) -> tuple[str, ...]:
    """What clients may call the base model: as the operator says, or the last part of its name, or all of a hub id."""
    if settings.served_model_name:
        return settings.served_model_name
    if settings.model is None:
        return (MODEL_NAME,)
    if Path(settings.model).expanduser().is_dir():
        return (Path(settings.model).expanduser().resolve().name,)
    hub_id = settings.model.partition("@")[0]
    return tuple(dict.fromkeys((hub_id.rpartition("/")[2], hub_id)))


def _path_name(settings: Settings) -> str | None:
    """A folder that no adapter's name can equal, where the operator gave the base no other names."""
    is_name = settings.model is not None and "/" in settings.model and not settings.served_model_name
    return settings.model if is_name else None


def _tool_format(settings: Settings, tokenizer: Tokenizer) -> ToolFormat | None:
    detected, parser = detect(tokenizer.templates.tool_source or ""), settings.tool_call_parser
    asked = detected if parser == "auto" else TOOL_FORMATS.get(parser)
    # Channels hold all of an answer: without its reader a client would see their names in the text.
    writes_channels = HARMONY in (detected, asked) or settings.reasoning_parser == "openai_gptoss"
    return HARMONY if writes_channels else asked


def require_paths(settings: Settings) -> None:
    """Raises ConfigurationError for an adapter that is not there, before time goes into loading the model."""
    for module in settings.lora_modules:
        name, _, path = module.partition("=")
        if "://" not in adapter_source(path) and not Path(path).exists():
            raise ConfigurationError(
                f"--lora-modules {name}: there is no {path}; give a PEFT folder, an archive, a hub id, hf:// or s3://"
            )
    for resolver in settings.adapter_resolver:
        kind, _, folder = resolver.partition(":")
        if kind == "dir" and not Path(folder).expanduser().is_dir():
            raise ConfigurationError(
                f"--adapter-resolver {resolver}: there is no such folder; make it, or name another"
            )


def prepare_data_dir(settings: Settings) -> None:
    """The data folder, readable by its owner alone, with the secret that hosts share. Raises ConfigurationError."""
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        settings.data_dir.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(
            f"cannot use --data-dir {settings.data_dir}: {error.strerror}; give a folder that you may write"
        ) from None
    if settings.secret_file is not None:
        Secret.adopt(settings.secret_file, settings.data_dir)


def engine_config(settings: Settings, base: ServedBase, artifacts: Path) -> EngineConfig:
    """The engine's part of the settings; the names are the same. base: its folder and its tokenizer, merged."""
    shared = settings.model_dump(include=set(EngineConfig.__struct_fields__), exclude={"tokenizer"})
    if not settings.enable_lora:
        shared |= {"max_loras": 1, "max_cpu_loras": 1}  # the least that an engine takes
    return EngineConfig(
        **shared,
        engines_per_host=settings.replicas,
        model_path=str(base.config.folder),
        artifact_root=str(artifacts),
        asks_for_artifacts=settings.artifact_store is not None,
        tokenizer=base.served.tokenizer.definition,
        eos_token_ids=base.config.eos_token_ids,
    )
