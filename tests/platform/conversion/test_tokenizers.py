"""A start with a folder that has no tokenizer.json: converted once by a child, read from the cache from then on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.platform.conversion.conftest import write

from multiflora_platform.conversion import tokenizers
from multiflora_platform.conversion.child import ConversionError
from multiflora_platform.conversion.tokenizer_child import convert_tokenizer
from multiflora_platform.conversion.tokenizers import load_tokenizer
from multiflora_platform.text.chat_template import ChatOptions
from multiflora_platform.text.errors import TokenizerError

CONFIG = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


@pytest.fixture
def folder(tmp_path: Path, sentencepiece: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write(tmp_path / "model", {"tokenizer.model": sentencepiece(), "tokenizer_config.json": CONFIG})


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Conversions, done in this process."""
    ran: list[str] = []

    def run(module: str, source: str, made: str, *, seconds: float) -> None:
        ran.append(source)
        convert_tokenizer(Path(source), Path(made))

    monkeypatch.setattr(tokenizers, "run_child", run)
    return ran


def test_a_start_converts_once_and_never_imports_transformers(folder: Path) -> None:
    """By the real child; the second start reads what the first one kept."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom multiflora_platform.conversion import tokenizers\n"
        "if sys.argv[2] == 'again': tokenizers.run_child = None\n"
        "print(tokenizers.load_tokenizer(Path(sys.argv[1])).encode('the quick fox'))\n"
        "assert not {'transformers', 'torch', 'sentencepiece'} & set(sys.modules)"
    )
    told = [
        subprocess.run([sys.executable, "-c", code, folder, word], capture_output=True, text=True, check=True).stdout
        for word in ("first", "again")
    ]
    assert told[0] == told[1] == f"{load_tokenizer(folder).encode('the quick fox')}\n"
    assert not [file.name for file in folder.iterdir() if file.name == "tokenizer.json"]


def test_other_content_is_converted_anew(folder: Path, children: list[str]) -> None:
    first = load_tokenizer(folder)
    assert load_tokenizer(folder).encode("the") == first.encode("the")
    assert len(children) == 1
    write(folder, {"tokenizer_config.json": {**CONFIG, "add_bos_token": True}})
    assert load_tokenizer(folder).encode("the") == [first.bos_token_id, *first.encode("the")]
    write(folder, {"chat_template.jinja": "new"})
    assert load_tokenizer(folder).apply_chat_template([]) == "new"
    assert len(children) == 3


def test_the_operators_template_goes_before_the_folders(folder: Path, children: list[str]) -> None:
    write(folder, {"chat_template.jinja": "the folder's"})
    chat = ChatOptions(template="the operator's")
    assert load_tokenizer(folder, chat).apply_chat_template([]) == "the operator's"


def test_without_a_cache_folder_it_is_only_slower(
    folder: Path, children: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load_tokenizer(folder).encode("the") == load_tokenizer(folder).encode("the")
    assert len(children) == 2

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert load_tokenizer(folder).encode("the")
    assert len(children) == 3


def test_of_two_starts_at_once_each_has_its_tokenizer(
    folder: Path, children: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one keeps its own first."""
    run = tokenizers.run_child

    def late(module: str, source: str, made: str, *, seconds: float) -> None:
        monkeypatch.setattr(tokenizers, "run_child", run)
        load_tokenizer(folder)
        run(module, source, made, seconds=seconds)

    monkeypatch.setattr(tokenizers, "run_child", late)
    assert load_tokenizer(folder).encode("the") == load_tokenizer(folder).encode("the")
    assert len(children) == 2


def test_a_tokenizer_json_is_read_as_it_is(folder: Path, children: list[str]) -> None:
    convert_tokenizer(folder, folder)
    assert load_tokenizer(folder).encode("the")
    assert not children


@pytest.mark.parametrize(
    ("files", "parts"),
    [
        ({}, ("no tokenizer.json, and no vocabulary", "--tokenizer FOLDER")),
        ({"spiece.model": b"\xff"}, ("spiece.model cannot be converted: it is odd", "--tokenizer FOLDER")),
        ({"qwen.tiktoken": "x"}, ("qwen.tiktoken cannot be converted: it is odd", "--tokenizer FOLDER")),
    ],
)
def test_what_cannot_be_converted_names_the_file_and_the_next_step(
    files: dict[str, Any], parts: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str, seconds: float) -> None:
        raise ConversionError("it is odd")

    monkeypatch.setattr(tokenizers, "run_child", run)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(TokenizerError) as caught:
        load_tokenizer(write(tmp_path / "model", files))
    assert all(part in str(caught.value) for part in (str(tmp_path / "model"), *parts))
    cache = tmp_path / "cache" / "multiflora" / "tokenizers"
    assert not cache.exists() or not any(cache.iterdir())
