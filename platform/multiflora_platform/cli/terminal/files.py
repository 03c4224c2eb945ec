"""What commands read from files that their arguments name; - is standard input."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from multiflora_platform.exit_codes import CommandError, ExitCode


def read_text(path: str) -> str:
    """Raises CommandError."""
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", ExitCode.CONFIGURATION) from None
    except UnicodeDecodeError:
        raise CommandError(f"{path} is no text in UTF-8", ExitCode.CONFIGURATION) from None


def read_json(path: str) -> Any:
    """Raises CommandError."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise CommandError(f"{path} is no JSON: {error}", ExitCode.CONFIGURATION) from None


def add_prompt_flags(parser: argparse.ArgumentParser) -> None:
    """Exactly one of three ways to give a prompt."""
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--system-file", metavar="FILE", help="a text, as the system message of conversations")
    given.add_argument("--prompt-file", metavar="FILE", help="a text with which completions begin")
    given.add_argument("--messages-file", metavar="FILE", help="JSON: a list of messages")
    parser.add_argument("--tools-file", metavar="FILE", help="JSON: the conversation's tools")


def prompt_from(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the flags name, as bodies of requests have it. Raises CommandError."""
    content: dict[str, Any] = {}
    if arguments.system_file is not None:
        content["messages"] = [{"role": "system", "content": read_text(arguments.system_file)}]
    if arguments.messages_file is not None:
        content["messages"] = read_json(arguments.messages_file)
    if arguments.prompt_file is not None:
        content["prompt"] = read_text(arguments.prompt_file)
    if arguments.tools_file is not None:
        content["tools"] = read_json(arguments.tools_file)
    return content
