"""`python -m multiflora_platform.conversion.tokenizer_child FOLDER DESTINATION`: a tokenizer.json by transformers.

Runs no code of the folder: families whose tokenizer is code on the hub are read by hub_tokenizers.py.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from multiflora_platform.confinement import confine
from multiflora_platform.conversion.child import ConversionError, answer, first_line
from multiflora_platform.conversion.hub_tokenizers import HUB_TOKENIZERS

_MEMORY_BYTES = 8 << 30
_SECONDS = 600
_FILE_BYTES = 1 << 30


def convert_tokenizer(folder: Path, destination: Path) -> None:
    """Save what transformers makes of the folder as it saves tokenizers. Raises ConversionError."""
    try:
        tokenizer = _load(folder)
        if (
            tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False).keys()
            <= tokenizer.added_tokens_encoder.keys()
        ):
            raise ConversionError("it holds no tokens")
        tokenizer.save_pretrained(str(destination))
    except (ConversionError, MemoryError):
        raise
    except Exception as error:  # whatever transformers and its libraries raise for files that are not what they seem
        raise ConversionError(first_line(error)) from None


def _load(folder: Path) -> Any:
    """A tokenizer of transformers' that a tokenizer.json can be saved of."""
    from transformers import AutoTokenizer

    config = _config(folder)
    if (read := HUB_TOKENIZERS.get(str(config.get("tokenizer_class")))) is not None:
        return read(folder, config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        name = config.get("tokenizer_class", "its tokenizer")
        raise ConversionError(f"{name} is code of its repository, which is never run") from None
    if not tokenizer.is_fast:
        return _as_fast(tokenizer)
    missing = [
        name
        for key, name in type(tokenizer).vocab_files_names.items()
        if key != "tokenizer_file" and not tokenizer.init_kwargs.get(key)
    ]
    if missing:
        raise ConversionError(f"{type(tokenizer).__name__} needs {' and '.join(missing)} beside it")
    return tokenizer


def _as_fast(tokenizer: Any) -> Any:
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import convert_slow_tokenizer

    return PreTrainedTokenizerFast(
        tokenizer_object=convert_slow_tokenizer(tokenizer),
        chat_template=tokenizer.chat_template,
        **tokenizer.special_tokens_map,
    )


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise ConversionError(f"{file.name} is not readable JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConversionError(f"{file.name} must hold a JSON object")
    return config


def main() -> None:
    # All that a conversion imports: under the bound on memory a library would only fail later.
    import transformers.models.auto.tokenization_auto

    assert transformers.__version__
    os.umask(0o077)
    confine(memory_bytes=_MEMORY_BYTES, seconds=_SECONDS, file_bytes=_FILE_BYTES)
    answer(lambda: convert_tokenizer(Path(sys.argv[1]), Path(sys.argv[2])))


if __name__ == "__main__":
    main()
