"""Tokens that files beside tokenizer.json name, merged as transformers does when it loads the folder.

Source: PreTrainedTokenizerBase._from_pretrained and TokenizersBackend of transformers 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tokenizers

from multiflora_platform.text.errors import TokenizerError

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def merged_config(config: Mapping[str, Any], token_map: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json with special_tokens_map.json: the map wins, except over a file that lists its added tokens
    itself (`added_tokens_decoder`); there it only fills in what is null or absent."""
    stated = {key: value for key, value in token_map.items() if value is not None}
    if "added_tokens_decoder" in config:
        return {**stated, **{key: value for key, value in config.items() if value is not None or key not in stated}}
    return {**config, **stated}


def add_tokens(rust: tokenizers.Tokenizer, config: Mapping[str, Any], added_tokens: Mapping[str, Any]) -> None:
    """Give `rust` the tokens that it lacks, in transformers' order. config: as `merged_config` made it. added_tokens:
    added_tokens.json. Raises TokenizerError for tokens that are not written as such."""
    named = [token for name in NAMED if (token := _token(config.get(name))) is not None]
    extra = [token for value in extra_tokens(config) if (token := _token(value)) is not None]
    special = {token.content for token in (*named, *extra)}
    present = {repr(token) for token in rust.get_added_tokens_decoder().values()}
    known = {token.content for token in rust.get_added_tokens_decoder().values()}
    missing = [token for token in _listed(config, added_tokens, special) if repr(token) not in present]
    known |= {token.content for token in missing}
    for token in (*named, *extra):
        if token.content not in known:
            known.add(token.content)
            missing.append(token)
    named_texts = {token.content for token in named}
    for token in missing:
        token.special = token.special or token.content in named_texts
    rust.add_tokens(missing)


def extra_tokens(config: Mapping[str, Any]) -> list[Any]:
    """The special tokens beside the named ones, as the file writes them."""
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    values = list(extra.values()) if isinstance(extra, Mapping) else list(extra)
    return [*values, *model_tokens(config).values()]


def model_tokens(config: Mapping[str, Any]) -> dict[str, Any]:
    """Tokens under names of the model's own, such as image_token, which templates see."""
    return {
        name: value
        for name, value in config.items()
        if name.endswith("_token") and name not in NAMED and isinstance(value, str | Mapping)
    }


def _listed(config: Mapping[str, Any], added_tokens: Mapping[str, Any], special: set[str]) -> list[Any]:
    """Those with an id, in the order of their ids: of `added_tokens_decoder`, or else of added_tokens.json."""
    decoder = config.get("added_tokens_decoder")
    try:
        if decoder is not None:
            by_id = {int(token_id): _token(token, is_special=False) for token_id, token in decoder.items()}
        else:
            by_id = {
                int(token_id): tokenizers.AddedToken(text, normalized=text not in special, special=text in special)
                for text, token_id in added_tokens.items()
            }
    except (AttributeError, TypeError, ValueError):
        raise TokenizerError("added_tokens_decoder or added_tokens.json does not map ids and tokens") from None
    return [token for _, token in sorted(by_id.items()) if token is not None]


def _token(value: Any, is_special: bool = True) -> Any:
    """A token is written as its text or as {"content": text, ...}; anything else is none."""
    if isinstance(value, str) and value:
        return tokenizers.AddedToken(value, normalized=not is_special, special=is_special)
    if not isinstance(value, Mapping) or not isinstance(value.get("content"), str) or not value["content"]:
        return None
    flags = {flag: value[flag] for flag in _FLAGS if isinstance(value.get(flag), bool)}
    return tokenizers.AddedToken(value["content"], **{"special": is_special, **flags})
