"""The base model of offline use, as its folder describes it, before any weight is loaded; torch-free.

Knows files; not whether an engine runs in this process or in one of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from multiflora_engine.models.configuration.generation_config import SAMPLING_NAMES
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.protocol.config import EngineConfig
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.model_files import ModelFiles
from multiflora_platform.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class OpenedModel:
    """Made by `open`. config: with the tokenizer's end tokens, too."""

    config: ModelConfig
    tokenizer: Tokenizer

    @classmethod
    def open(cls, files: ModelFiles) -> OpenedModel:
        """Raises ModelError and TokenizerError."""
        return cls(*files.open())

    def engine_config(self, artifacts: Path, **options: Any) -> EngineConfig:
        """artifacts: the store of the adapters. options: other fields of EngineConfig."""
        return EngineConfig(
            model_path=str(self.config.folder),
            artifact_root=str(artifacts),
            tokenizer=self.tokenizer.definition,
            eos_token_ids=self.config.eos_token_ids,
            **options,
        )

    def default_params(self) -> SamplingParams:
        """What generation_config.json advises."""
        advised = self.config.generation_defaults
        return replace(SamplingParams(), **{SAMPLING_NAMES[name]: value for name, value in advised.items()})
