"""The options of an engine, as vLLM's programs give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from multiflora.options import program_options


class EngineArgs:
    """model: a folder, or a Hugging Face id. Other options have vLLM's names or ours (max_model_len, max_loras,
    gpu_memory_utilization, ...); one that has no effect here is logged with the reason.

    Raises TypeError for an unknown option, naming the nearest; ValueError for a value that cannot be.
    """

    def __init__(self, model: str | Path, **options: Any) -> None:
        chosen = program_options(type(self).__name__, model, options)
        self.model = model
        self.files = chosen.files
        self.engine_options = chosen.engine


class AsyncEngineArgs(EngineArgs):
    """The same, for AsyncLLMEngine."""
