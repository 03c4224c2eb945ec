"""`multiflora complete` and `multiflora chat`: talk to a running server from the terminal; the end of input ends it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from multiflora_platform.cli.http import add_server_flags, models, stream_answer
from multiflora_platform.exit_codes import CommandError, ExitCode


def add_parser(commands: Any) -> None:
    complete = _command(commands, "complete", "complete texts with a running server")
    complete.add_argument("--max-tokens", type=int, help="longest completion; default the server's")
    complete.set_defaults(run=run_complete)
    chat = _command(commands, "chat", "talk to a model of a running server")
    chat.add_argument("--system-prompt", help="what the conversation begins with")
    chat.set_defaults(run=run_chat)


def _command(commands: Any, name: str, help_text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=help_text)
    add_server_flags(parser)
    parser.add_argument("--model-name", help="the base model or an adapter; default the first that the server lists")
    parser.add_argument("-q", "--quick", metavar="TEXT", help="send this alone, print the answer, and end")
    return parser


def run_complete(arguments: argparse.Namespace) -> int:
    body = {"model": _model(arguments)}
    if arguments.max_tokens is not None:
        body["max_tokens"] = arguments.max_tokens
    for text in _texts(arguments.quick):
        pieces = stream_answer(arguments, "/v1/completions", {**body, "prompt": text})
        _show(chunk["choices"][0]["text"] for chunk in pieces if chunk["choices"])
    return ExitCode.OK


def run_chat(arguments: argparse.Namespace) -> int:
    model = _model(arguments)
    messages: list[dict[str, str]] = []
    if arguments.system_prompt:
        messages.append({"role": "system", "content": arguments.system_prompt})
    for text in _texts(arguments.quick):
        messages.append({"role": "user", "content": text})
        pieces = stream_answer(arguments, "/v1/chat/completions", {"model": model, "messages": messages})
        answer = _show(chunk["choices"][0]["delta"].get("content") or "" for chunk in pieces if chunk["choices"])
        messages.append({"role": "assistant", "content": answer})
    return ExitCode.OK


def _model(arguments: argparse.Namespace) -> str:
    if arguments.model_name:
        return str(arguments.model_name)
    listed = models(arguments)
    if not listed:
        raise CommandError("the server lists no model for this key; give --model-name")
    return listed[0]


def _texts(quick: str | None) -> Iterator[str]:
    """What the user asks: the one text of --quick, or line by line until the end of input."""
    if quick is not None:
        yield quick
        return
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            text = input(prompt)
        except EOFError:
            return
        if text.strip():
            yield text


def _show(pieces: Iterable[str]) -> str:
    """Writes the pieces as they come; returns the whole. A model's control characters must not reach the terminal."""
    whole = []
    for piece in pieces:
        whole.append(piece)
        sys.stdout.write("".join(letter for letter in piece if letter.isprintable() or letter in "\n\t"))
        sys.stdout.flush()
    sys.stdout.write("\n")
    return "".join(whole)
