"""Command lines of programs that give the engine's options on to it, as vLLM's programs read them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from multiflora_platform.cli.vllm_spelling import as_we_write_it


class FlexibleArgumentParser(argparse.ArgumentParser):
    """Takes `--max_model_len 8` and `--enforce-eager=False`, too."""

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:  # type: ignore[override]
        written = as_we_write_it(sys.argv[1:] if args is None else list(args))
        return super().parse_known_args(written, namespace)
