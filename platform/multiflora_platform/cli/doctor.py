"""`multiflora doctor`: what this machine can do, and what to change where it could do more."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from multiflora_platform.auth.oidc.opening import sign_on_checks
from multiflora_platform.base_models.engine_sizes import local_base, sizes_of
from multiflora_platform.cli.flags import add_settings_flags, configuration_from
from multiflora_platform.cli.terminal.output import add_output_flag, emit
from multiflora_platform.observability.machine import checks, sizes_check
from multiflora_platform.settings import ConfigurationError, Settings
from multiflora_platform.text.template_lint import template_checks


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("doctor", help="explain what this machine can do for a server with these settings")
    add_settings_flags(parser)
    add_output_flag(parser)
    parser.set_defaults(run=run)


def _of_model(settings: Settings) -> list[dict[str, Any]]:
    """What its templates do, and how large an engine's steps would be; of a model that is here."""
    try:
        base = local_base(settings)
        if base is None:
            return []
        sizes, tokenizer = sizes_of(settings, base), base.served.tokenizer
    except ConfigurationError as error:
        return [{"state": "error", "check": "model", "found": str(error), "advice": "Name another folder."}]
    has_graphs = sizes.gpu_memory_utilization is not None and not settings.enforce_eager
    return [sizes_check(sizes, has_graphs), *template_checks(tokenizer.templates, tokenizer.template_findings)]


def run(arguments: argparse.Namespace) -> int:
    settings = configuration_from(arguments).settings
    rows = [*checks(settings.data_dir), *_of_model(settings), *asyncio.run(sign_on_checks(settings))]
    emit(arguments.output, rows, ("state", "check", "found", "advice"))
    return 1 if any(row["state"] == "error" for row in rows) else 0
