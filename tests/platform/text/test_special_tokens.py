"""Tokens named beside tokenizer.json, against transformers on the same folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from multiflora_platform.text.errors import TokenizerError
from multiflora_platform.text.special_tokens import NAMED
from multiflora_platform.text.tokenizer import Tokenizer

TEXTS = ["<s>hi <|a|>there<|b|> </s>", "a <|a|> b", "plain </s>x", "<|c|><|call|> <unk>", "<|img|> Hi<|b|>"]

FOLDERS: dict[str, dict[str, Any]] = {
    "none": {},
    "config_alone": {"tokenizer_config": {"eos_token": "</s>", "bos_token": "<s>", "pad_token": "<|a|>"}},
    "config_with_flags": {
        "tokenizer_config": {
            "eos_token": {
                "__type": "AddedToken",
                "content": "<|b|>",
                "lstrip": True,
                "rstrip": True,
                "normalized": False,
            }
        }
    },
    "decoder": {
        "tokenizer_config": {
            "eos_token": "<|b|>",
            "added_tokens_decoder": {
                "262": {"content": "<|call|>", "special": False, "lstrip": False, "rstrip": False, "normalized": True},
                "261": {"content": "<|b|>", "special": True, "lstrip": True, "rstrip": False, "normalized": False},
            },
        }
    },
    "decoder_with_other_flags": {
        "tokenizer_config": {
            "added_tokens_decoder": {
                "260": {"content": "<|c|>", "special": True, "lstrip": True, "rstrip": True, "normalized": False}
            },
        }
    },
    "map_wins": {
        "tokenizer_config": {"eos_token": "</s>"},
        "special_tokens_map": {"eos_token": "<|b|>", "bos_token": {"content": "<s>", "normalized": False}},
    },
    "map_for_null": {"tokenizer_config": {"eos_token": None}, "special_tokens_map": {"eos_token": "</s>"}},
    "map_alone": {"special_tokens_map": {"eos_token": "</s>", "additional_special_tokens": ["<|a|>", "<|b|>"]}},
    "added_tokens": {
        "tokenizer_config": {"eos_token": "<|b|>"},
        "added_tokens": {"<|call|>": 262, "<|b|>": 261},
    },
    "additional": {"tokenizer_config": {"additional_special_tokens": ["<|a|>", "<|call|>"]}},
    "extra_list": {"tokenizer_config": {"extra_special_tokens": ["<|a|>"], "unk_token": "<unk>"}},
    "extra_names": {"tokenizer_config": {"extra_special_tokens": {"image_token": "<|img|>"}}},
    "own_names": {"tokenizer_config": {"image_token": "<|img|>", "eos_token": "</s>"}},
    "own_names_listed": {
        "tokenizer_config": {"model_specific_special_tokens": {"image_token": "<|img|>"}, "eos_token": "</s>"}
    },
    "own_names_in_both_forms": {
        "tokenizer_config": {"image_token": "<|img|>", "model_specific_special_tokens": {"call_token": "<|call|>"}},
        "added_tokens": {"<|img|>": 261},
    },
    "own_names_of_the_map": {
        "tokenizer_config": {"image_token": "<|img|>", "extra_special_tokens": ["<|b|>"]},
        "special_tokens_map": {"call_token": "<|call|>", "extra_special_tokens": {"first_token": "<|a|>"}},
    },
    "a_list_of_the_map": {
        "tokenizer_config": {"extra_special_tokens": ["<|b|>"]},
        "special_tokens_map": {"extra_special_tokens": ["<|a|>", "<|b|>"], "eos_token": "</s>"},
    },
    "additional_of_both": {
        "tokenizer_config": {"additional_special_tokens": ["<|a|>"]},
        "special_tokens_map": {"additional_special_tokens": ["<|b|>"]},
    },
    "map_with_null": {
        "tokenizer_config": {"eos_token": "</s>", "pad_token": "<|a|>"},
        "special_tokens_map": {"eos_token": None, "pad_token": "<|b|>"},
    },
    "split": {"tokenizer_config": {"split_special_tokens": True, "eos_token": "</s>"}},
}


def folder_of(tmp_path: Path, files: dict[str, Any]) -> Path:
    """A byte-level tokenizer with `</s>` as an ordinary token (256) and `<|c|>` as an added one (260)."""
    vocab = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab |= {"</s>": 256, "<s>": 257, "<unk>": 258, "hi": 259}
    rust = tokenizers.Tokenizer(models.BPE(vocab, []))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    rust.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    rust.add_special_tokens([tokenizers.AddedToken("<|c|>", special=True, normalized=False)])
    rust.save(str(tmp_path / "tokenizer.json"))
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


@pytest.mark.parametrize("name", FOLDERS)
def test_tokens_are_merged_as_in_transformers(name: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path, FOLDERS[name])
    ours = Tokenizer.load(folder)
    oracle = PreTrainedTokenizerFast.from_pretrained(folder)
    for text in TEXTS:
        assert ours.encode(text) == oracle.encode(text), text
        ids = ours.encode(text)
        assert ours.decode(ids, skip_special_tokens=True) == oracle.decode(ids, skip_special_tokens=True)
    assert ours.vocab_size == len(oracle)
    assert (ours.bos_token_id, ours.eos_token_id) == (oracle.bos_token_id, oracle.eos_token_id)
    named = {key: value for key, value in oracle.special_tokens_map.items() if isinstance(value, str)}
    assert ours.special_tokens == named
    assert {i: token.content for i, token in oracle.added_tokens_decoder.items()} == ours.added


def test_a_null_beside_listed_tokens_means_the_maps_value(tmp_path: Path) -> None:
    listed = {"256": {"content": "</s>", "special": True, "normalized": False}}
    config = {"eos_token": None, "bos_token": "<s>", "added_tokens_decoder": listed}
    files = {"tokenizer_config": config, "special_tokens_map": {"eos_token": "</s>", "bos_token": "<unk>"}}
    tokenizer = Tokenizer.load(folder_of(tmp_path, files))
    assert (tokenizer.eos_token_id, tokenizer.special_tokens["bos_token"]) == (256, "<s>")


@pytest.mark.parametrize("name", FOLDERS)
def test_the_configuration_stays_as_its_file_writes_it(name: str, tmp_path: Path) -> None:
    """But for the named tokens, which the map may set: what a client reads there is in use."""
    file = FOLDERS[name].get("tokenizer_config", {})
    config = Tokenizer.load(folder_of(tmp_path, FOLDERS[name])).config
    named = {key: value for key, value in FOLDERS[name].get("special_tokens_map", {}).items() if key in NAMED}
    assert config == {**file, **named}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"added_tokens": {"<|a|>": "first"}}, r"added_tokens\.json"),
        ({"tokenizer_config": {"eos_token": ["</s>"]}}, "eos_token"),
        ({"special_tokens_map": {"bos_token": 5}}, "bos_token"),
        ({"tokenizer_config": {"extra_special_tokens": "<|a|>"}}, "extra_special_tokens"),
    ],
    ids=str,
)
def test_what_is_no_token_is_told(files: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=words):
        Tokenizer.load(folder_of(tmp_path, files))
