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
    """tokenizer_config.json with special_tokens_map.json: the map wins, also with a null, except over a file that lists
    its added tokens itself (`added_tokens_decoder`); there it only fills in what is null or absent.

    Tokens under names of the model's own, such as image_token, stand in `model_specific_special_tokens` then, and
    further special tokens in the list `extra_special_tokens`.
    """
    merged = dict(config)
    if "additional_special_tokens" in merged and not merged.get("extra_special_tokens"):
        merged["extra_special_tokens"] = merged.pop("additional_special_tokens")
    if own := {**_taken(merged), **_taken_object(merged)}:  # these alone, whatever the file lists beside them
        merged["model_specific_special_tokens"] = own
    if "added_tokens_decoder" in merged:
        merged |= {key: value for key, value in token_map.items() if merged.get(key) is None}
    else:
        merged |= {**token_map, **_extended(merged, token_map)}
    listed = merged.get("model_specific_special_tokens")
    listed = {**(listed if isinstance(listed, Mapping) else {}), **_taken_object(merged)}
    merged["model_specific_special_tokens"] = {**_taken(merged), **listed}
    if "extra_special_tokens" not in merged:
        merged["extra_special_tokens"] = merged.get("additional_special_tokens")
    return merged


def _taken(config: dict[str, Any]) -> dict[str, Any]:
    """Tokens under names of the model's own, which are taken out of `config`."""
    names = [key for key in config if key.endswith("_token") and key not in NAMED]
    return {name: config.pop(name) for name in names if isinstance(config[name], str | Mapping)}


def _taken_object(config: dict[str, Any]) -> dict[str, Any]:
    """Further ones that stand in an object, by name."""
    return config.pop("extra_special_tokens") if isinstance(config.get("extra_special_tokens"), Mapping) else {}


def _extended(config: Mapping[str, Any], token_map: Mapping[str, Any]) -> dict[str, Any]:
    """The one list of the map that comes behind the configuration's own."""
    further = token_map.get("extra_special_tokens")
    if not isinstance(further, list):
        return {}
    own = list(config.get("extra_special_tokens") or [])
    return {"extra_special_tokens": [*own, *(token for token in further if token not in own)]}


def add_tokens(rust: tokenizers.Tokenizer, config: Mapping[str, Any], added_tokens: Mapping[str, Any]) -> None:
    """Give `rust` the tokens that it lacks, in transformers' order. config: as `merged_config` made it. added_tokens:
    added_tokens.json. Raises TokenizerError for tokens that are not written as such."""
    of_all = [token for name in NAMED if (token := _named_token(name, config.get(name))) is not None]
    of_its_own = [token for value in own_tokens(config).values() if (token := _token(value)) is not None]
    further = config.get("extra_special_tokens") or []
    if not isinstance(further, list):
        raise TokenizerError("extra_special_tokens is neither a list nor an object")
    extra = [token for value in further if (token := _token(value)) is not None]
    named = [*of_all, *of_its_own]
    special = {token.content for token in (*of_all, *extra)}
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


def own_tokens(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a config that `merged_config` made: tokens under names of the model's own, which templates see."""
    tokens: Mapping[str, Any] = config.get("model_specific_special_tokens") or {}
    return tokens


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


def _named_token(name: str, value: Any) -> Any:
    token = _token(value)
    if token is None and value not in (None, ""):
        raise TokenizerError(f"{name} is {str(value)[:80]!r}, which is no token's text")
    return token


def _token(value: Any, is_special: bool = True) -> Any:
    """A token is written as its text or as {"content": text, ...}; anything else is none."""
    if isinstance(value, str) and value:
        return tokenizers.AddedToken(value, normalized=not is_special, special=is_special)
    if not isinstance(value, Mapping) or not isinstance(value.get("content"), str) or not value["content"]:
        return None
    flags = {flag: value[flag] for flag in _FLAGS if isinstance(value.get(flag), bool)}
    return tokenizers.AddedToken(value["content"], **{"special": is_special, **flags})
