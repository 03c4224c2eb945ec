"""The options of an engine, as vLLM's programs give them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Self, TypeVar

from multiflora.options import NAMES, program_options
from multiflora_platform.cli.flags import add_program_flags

Parser = TypeVar("Parser", bound=argparse._ActionsContainer)


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

    @staticmethod
    def add_cli_args(parser: Parser) -> Parser:
        """Gives a program's parser, or a group of one, --model and a flag for each option. What the command line leaves
        out is None, which stands for the option's default: `LLM(**vars(args))` takes it as it is."""
        add_program_flags(parser, sorted(NAMES))
        return parser

    @classmethod
    def from_cli_args(cls, args: argparse.Namespace) -> Self:
        """Of what that parser read; other arguments of the program are left to it. Raises as the constructor."""
        return cls(**{name: value for name, value in vars(args).items() if name == "model" or name in NAMES})


class AsyncEngineArgs(EngineArgs):
    """The same, for AsyncLLMEngine."""
