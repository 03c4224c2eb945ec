"""A folder's tokenizer, whatever its form: a tokenizer.json is read, older vocabularies are converted first.

What was converted is kept by the content of its files, so that the next start reads a tokenizer.json, too. Imports no
transformers: that is the child's (tokenizer_child.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from multiflora_kernels.runtime.machine_cache import cache_root
from multiflora_platform.conversion.child import ConversionError, run_child
from multiflora_platform.text.chat_template import OF_THE_MODEL, ChatOptions
from multiflora_platform.text.errors import TokenizerError
from multiflora_platform.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

# What vocabularies are called that transformers converts; the first that a folder has is the one that errors name.
VOCABULARIES = ("*.tiktoken", "*.model", "tokenizer.model.*", "vocab.json", "vocab.txt", "tekken.json", "merges.txt")
_DESCRIPTIONS = ("*token*.json", "config.json", "generation_config.json", "chat_template*", "*_chat_templates/*.jinja")
_SECONDS = 600.0
# Counts how we convert: what older releases converted is converted again.
_FORM = 1
_ADVICE = "Give a folder that has one with --tokenizer FOLDER."


def load_tokenizer(folder: Path, chat: ChatOptions = OF_THE_MODEL) -> Tokenizer:
    """chat: goes before the folder's own templates. Raises TokenizerError."""
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.load(folder, chat)
    with _converted(folder) as converted:
        return Tokenizer.load(converted, chat)


@contextlib.contextmanager
def _converted(folder: Path) -> Iterator[Path]:
    """The folder of the converted tokenizer: of an earlier start, new in the cache, or, where there can be no cache, a
    temporary one."""
    vocabularies = _files(folder, VOCABULARIES)
    if not vocabularies:
        raise TokenizerError(
            f"{folder} has no tokenizer.json, and no vocabulary that could be converted (tokenizer.model, vocab.json "
            f"and merges.txt, *.tiktoken). {_ADVICE}"
        )
    kept = _place(_digest(folder))
    if kept is not None and (kept / "tokenizer.json").is_file():
        yield kept
        return
    with _scratch(kept) as scratch:
        made = Path(scratch) / "tokenizer"
        _log.info("Converting %s of %s, once; this takes some seconds", vocabularies[0].name, folder)
        try:
            run_child("multiflora_platform.conversion.tokenizer_child", str(folder), str(made), seconds=_SECONDS)
        except ConversionError as error:
            raise TokenizerError(
                f"{folder} has no tokenizer.json, and its {vocabularies[0].name} cannot be converted: {error}. "
                f"{_ADVICE}"
            ) from None
        if kept is not None:
            with contextlib.suppress(OSError):  # another process was first, or the cache is on another file system
                made = made.rename(kept)
        yield made


def _place(digest: str) -> Path | None:
    """In the cache; None for a process that has no home."""
    try:
        return cache_root() / "tokenizers" / digest
    except RuntimeError:
        return None


def _scratch(kept: Path | None) -> tempfile.TemporaryDirectory[str]:
    """Beside where the result will be kept, where that can be."""
    with contextlib.suppress(OSError):
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            return tempfile.TemporaryDirectory(dir=kept.parent)
    return tempfile.TemporaryDirectory()


def _digest(folder: Path) -> str:
    """Of all that decides what the conversion makes."""
    try:
        deciding = _files(folder, (*VOCABULARIES, *_DESCRIPTIONS))
        contents = [f"{file.relative_to(folder)} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in deciding]
        lines = [str(_FORM), version("transformers"), *contents]
    except PackageNotFoundError:
        raise TokenizerError(
            f"{folder} has no tokenizer.json, and transformers, which converts others, is not installed. "
            "pip install transformers sentencepiece tiktoken protobuf."
        ) from None
    except OSError as error:
        raise TokenizerError(f"{error.filename} cannot be read: {error.strerror}. Check its permissions.") from None
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Without repetitions, in the order of the patterns."""
    found = [file for pattern in patterns for file in sorted(folder.glob(pattern)) if file.is_file()]
    return list(dict.fromkeys(found))
