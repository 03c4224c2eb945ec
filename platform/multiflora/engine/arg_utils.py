"""The options of an engine, as vLLM's programs give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class EngineArgs:
    """model: a folder, or a Hugging Face id. options: fields of EngineConfig (max_model_len, max_loras, seed, ...)."""

    def __init__(self, model: str | Path, **options: Any) -> None:
        self.model = model
        self.options = options


class AsyncEngineArgs(EngineArgs):
    """The same, for AsyncLLMEngine."""
