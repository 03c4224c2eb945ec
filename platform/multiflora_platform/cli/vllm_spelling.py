"""How vLLM's command line may be written beyond ours: underscores, switches with values, JSON by its keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from multiflora_platform.cli.flags import is_switch
from multiflora_platform.vllm_options.accept import OPTIONS
from multiflora_platform.vllm_options.rules import OFF_WORDS, ON_WORDS


def as_we_write_it(argv: Sequence[str]) -> list[str]:
    """The same arguments in the form that the parser takes.

    `--max_model_len 8` becomes `--max-model-len 8`, `--enable-lora=False` becomes `--no-enable-lora`, and
    `--compilation-config.level 3` becomes `--compilation-config {"level": 3}`.
    """
    written: list[str] = []
    objects: dict[str, dict[str, Any]] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--":
            return [*written, word, *words]
        if not word.startswith("-"):
            written.append(word)
            continue
        name, equals, value = word.partition("=")
        name = name.replace("_", "-") if name.startswith("--") else name
        option, dot, key = name.partition(".")
        if dot and _is_option(option):
            _put(objects.setdefault(option, {}), key, value if equals else words.pop(0) if words else "")
        elif is_switch(name.removeprefix("--").replace("-", "_")):
            said = value if equals else words.pop(0) if words and words[0].lower() in ON_WORDS | OFF_WORDS else "true"
            written.append(_switch(name, said, word))
        else:
            written.append(name + equals + value)
    return written + [part for option, content in objects.items() for part in (option, json.dumps(content))]


def _is_option(written: str) -> bool:
    """`--compilation-config` or `-O`; a negative number is none."""
    name = written.removeprefix("--").replace("-", "_")
    return name in OPTIONS or any(written in option.short for option in OPTIONS.values())


def _switch(name: str, said: str, word: str) -> str:
    if said.lower() in ON_WORDS:
        return name
    return "--no-" + name.removeprefix("--") if said.lower() in OFF_WORDS else word


def _put(content: dict[str, Any], path: str, text: str) -> None:
    """Sets content[a][b] for the path `a.b`; text that is JSON becomes what it means."""
    *parents, last = path.replace("-", "_").split(".")
    for parent in parents:
        if not isinstance(content.get(parent), dict):
            content[parent] = {}
        content = content[parent]
    try:
        content[last] = json.loads(text)
    except ValueError:
        content[last] = text
