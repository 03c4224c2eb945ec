"""A model's files as an operator or a program asks for them: found, read and checked against what was asked.

The fields have the names of the settings. Torch-free; knows no engine and no server.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from multiflora_engine.models.checkpoint import weight_files
from multiflora_engine.models.configuration.config_fields import read_json_object
from multiflora_engine.models.configuration.generation_config import SAMPLING_NAMES, generation_defaults
from multiflora_engine.models.configuration.model_config import ModelConfig
from multiflora_engine.models.configuration.reading import load_model_config
from multiflora_engine.models.errors import ModelError
from multiflora_engine.models.hub import resolve_model
from multiflora_engine.models.quantisation.settings import is_made_at_load, method_name
from multiflora_platform.conversion.tokenizers import load_tokenizer
from multiflora_platform.text.chat_template import ChatOptions
from multiflora_platform.text.errors import TokenizerError
from multiflora_platform.text.template_dates import DateChoice
from multiflora_platform.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """Where model and tokenizer come from, and what goes before their own files."""

    model: str | Path
    """A folder, or a hub id, which may bring its revision: org/model@v2."""
    revision: str | None = None
    tokenizer: str | Path | None = None
    """None: the model's own."""
    tokenizer_revision: str | None = None
    download_dir: Path | None = None
    """None: Hugging Face's cache."""
    hf_token: str | None = None
    hf_overrides: Mapping[str, Any] = field(default_factory=dict)
    """Values in the place of config.json's own."""
    quantization: str | None = None
    """How the checkpoint must be quantised, or dense weights at load; None: as it says itself."""
    generation_config: str = "auto"
    """auto: the model's own sampling defaults; vllm: none of them; else a folder with a generation_config.json."""
    override_generation_config: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str | None = None
    """A file, or the template itself."""
    chat_template_content_format: Literal["auto", "string", "openai"] = "auto"
    default_chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    template_date: DateChoice = "now"

    def open(self) -> tuple[ModelConfig, Tokenizer]:
        """config: with the tokenizer's end tokens, too. Raises ModelError and TokenizerError."""
        folder = resolve_model(self.model, self.download_dir, self.revision, self.hf_token)
        # First: a folder that holds no model should not be blamed for its tokenizer.
        config = load_model_config(folder, self.hf_overrides)
        weight_files(folder)  # nor for the time that its conversion takes
        for warning in config.warnings:
            _log.warning("%s", warning)
        self._check_quantization(config)
        config = replace(config, generation_defaults=self._generation_defaults(config))
        tokenizer = load_tokenizer(self._tokenizer_folder(folder), self._chat_options())
        if self.tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
            raise TokenizerError(
                f"The tokenizer {self.tokenizer} has {tokenizer.vocab_size} tokens, the model {config.vocab_size}. "
                "Give the tokenizer that the model was trained with."
            )
        return config.with_ends(tokenizer.end_ids), tokenizer

    def _check_quantization(self, config: ModelConfig) -> None:
        if self.quantization is None:
            return
        if config.quantisation is None:
            if is_made_at_load(self.quantization):
                return
            raise ModelError(
                f"quantization is {self.quantization}, but the checkpoint is not quantised. "
                "Leave it out, give int8, or give the checkpoint that was quantised so."
            )
        method = config.quantisation.method
        if method_name(self.quantization) != method:
            raise ModelError(
                f"quantization is {self.quantization}, but the checkpoint is quantised by {method}. Leave it out: what "
                "the checkpoint says is followed."
            )

    def _tokenizer_folder(self, model_folder: Path) -> Path:
        if self.tokenizer is None and self.tokenizer_revision in (None, self.revision):
            return model_folder
        source = self.model if self.tokenizer is None else self.tokenizer
        return resolve_model(source, self.download_dir, self.tokenizer_revision, self.hf_token, weights=False)

    def _generation_defaults(self, config: ModelConfig) -> Mapping[str, float]:
        if self.generation_config == "auto" and not self.override_generation_config:
            return config.generation_defaults
        own: Mapping[str, Any] = {}
        if self.generation_config == "auto":
            own = config.generation_defaults
        elif self.generation_config != "vllm":
            own = read_json_object(Path(self.generation_config).expanduser() / "generation_config.json")
        if unknown := sorted(self.override_generation_config.keys() - SAMPLING_NAMES.keys()):
            raise ModelError(
                f"override_generation_config has {unknown[0]!r}, which no request could use. "
                f"Give {', '.join(SAMPLING_NAMES)}."
            )
        values, problems = generation_defaults({**own, **self.override_generation_config})
        if problems:
            raise ModelError(problems[0])
        return values

    def _chat_options(self) -> ChatOptions:
        template = None if self.chat_template is None else _template(self.chat_template)
        variables = self.default_chat_template_kwargs
        return ChatOptions(template, self.chat_template_content_format, variables, self.template_date)


def _template(file_or_text: str) -> str:
    """As vLLM decides: what has a template's braces is one, anything else is a file."""
    if "{" in file_or_text or "\n" in file_or_text:
        return file_or_text
    try:
        return Path(file_or_text).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(
            f"The chat template {file_or_text} cannot be read ({error}). Give a file, or the template's text."
        ) from None
