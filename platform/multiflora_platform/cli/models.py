"""`multiflora models convert`: a model folder that cannot be served as it is, written as one that can."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from multiflora_platform.cli.terminal.output import add_output_flag, emit_one
from multiflora_platform.exit_codes import CommandError, ExitCode


def add_parser(commands: Any) -> None:
    group = commands.add_parser("models", help="base models' folders").add_subparsers(
        dest="action", metavar="ACTION", required=True
    )
    convert = group.add_parser("convert", help="make safetensors of a model's .bin files, in a confined process")
    convert.add_argument("source", help="a folder with pytorch_model.bin, or a hub id")
    convert.add_argument("destination", type=Path, help="a new folder")
    convert.add_argument("--revision", help="branch, tag or commit of the hub")
    convert.add_argument("--download-dir", type=Path, help="where downloads are kept")
    convert.add_argument("--hf-token", help="token for the hub; default: HF_TOKEN")
    add_output_flag(convert)
    convert.set_defaults(run=run_convert)


def run_convert(arguments: argparse.Namespace) -> int:
    from multiflora_engine.models.errors import ModelError
    from multiflora_engine.models.hub import resolve_model
    from multiflora_platform.conversion.weights import convert_weights

    try:
        source = resolve_model(
            arguments.source, arguments.download_dir, arguments.revision, arguments.hf_token, pickles=True
        )
        made = convert_weights(source, arguments.destination)
    except ModelError as error:
        raise CommandError(str(error), ExitCode.CONFIGURATION) from None
    row = {"folder": str(made.folder), "tensors": made.num_tensors, "bytes": made.num_bytes}
    emit_one(arguments.output, row)
    return ExitCode.OK
