"""Which tensors of an adapter stand in the place of the base's embedding and head, all rows or some. Torch-free.

PEFT's modules_to_save and trainable_token_indices; embedding and head are all that may be replaced.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

from multiflora_adapters.base_model import BaseModel, Site
from multiflora_adapters.lora_config import CONFIG_NAME, AdapterConfig
from multiflora_adapters.report import ValidationRow, error, shown, some_of
from multiflora_adapters.tensor_file import FLOAT_BYTES, WEIGHTS_NAME, TensorEntry
from multiflora_adapters.tensor_names import PREFIX, TOKEN_ROWS

MEMORY_SETTING = "The device's memory for such rows is the setting --adapter-matrix-memory."


@dataclass(frozen=True)
class ReplacedTensor:
    """One tensor that replaces rows of the base's; `plan_replaced` fills it."""

    name: str  # in the file: [rows, hidden]
    sites: tuple[str, ...]  # embedding, head, or both where the base ties them
    token_ids: tuple[int, ...] | None  # whose rows they are, in the file's order; None: all of the vocabulary


def plan_replaced(
    config: AdapterConfig, tensors: Mapping[str, TensorEntry], base: BaseModel
) -> tuple[list[ReplacedTensor], list[ValidationRow]]:
    """Every tensor that the configuration says is there, and rows for all that does not fit."""
    planned, rows = _whole_matrices(config, tensors, base)
    for wanted in _token_rows(config, tensors, base, rows):
        taken = {site for other in planned for site in other.sites} & set(wanted.sites)
        if taken:
            message = f"trainable_token_indices and modules_to_save both replace {', '.join(sorted(taken))}."
            rows.append(error("config", message, hint="PEFT does not train both; train it with one of them."))
        else:
            planned.append(wanted)
    for replaced in planned:
        rows.extend(_check_tensor(replaced, tensors, base))
    return planned, rows


def _whole_matrices(
    config: AdapterConfig, tensors: Container[str], base: BaseModel
) -> tuple[list[ReplacedTensor], list[ValidationRow]]:
    named = dict.fromkeys(_replaceable(name, base) or name for name in config.modules_to_save or ())
    others = [name for name in named if name not in _ends(base)]
    whole = {name for name in named if name in _ends(base)}
    if whole and config.ensure_weight_tying and base.is_head_tied:
        whole = {*_ends(base)}  # PEFT saves both, equal
    rows = []
    if others:
        rows.append(
            error(
                "config",
                f"modules_to_save replaces modules of the base that all adapters share: {some_of(others)}.",
                observed=some_of(others),
                expected=", ".join(_short_names(base)),
                hint="Train these modules with LoRA instead: list them in target_modules.",
            )
        )
    return [ReplacedTensor(_in_file(f"{name}.weight", tensors), (name,), None) for name in sorted(whole)], rows


def _token_rows(
    config: AdapterConfig, tensors: Container[str], base: BaseModel, rows: list[ValidationRow]
) -> Iterator[ReplacedTensor]:
    """As PEFT ties them: of a tied base the rows of the embedding are the head's, unless the head has others."""
    indices = config.trainable_token_indices
    if indices is None:
        return
    named = indices if isinstance(indices, dict) else {base.embedding: indices}
    by_site = {_replaceable(name, base) or name: token_ids for name, token_ids in named.items()}
    others = [name for name in by_site if name not in _ends(base)]
    if others or len(by_site) < len(named):
        served = " and ".join(_short_names(base))
        message = f"trainable_token_indices names other modules than {served}: {some_of(named)}."
        rows.append(error("config", message, observed=some_of(named), hint="Train rows of these two only."))
        return
    wrong = [row for name, token_ids in by_site.items() if (row := _check_token_ids(name, token_ids, base))]
    rows.extend(wrong)
    if wrong:
        return
    embedded = by_site.get(base.embedding)
    is_tied = base.is_head_tied and embedded is not None
    is_shared = is_tied and by_site.get(base.head or "", embedded) == embedded
    for name, token_ids in by_site.items():
        if not (is_shared and name == base.head):
            sites = _ends(base) if is_shared else (name,)
            yield ReplacedTensor(_in_file(f"{name}.{TOKEN_ROWS}", tensors), sites, token_ids)


def _check_token_ids(name: str, token_ids: tuple[int, ...], base: BaseModel) -> ValidationRow | None:
    vocabulary = _vocabulary(base.sites[name])
    outside = [token for token in token_ids if not 0 <= token < vocabulary]
    if token_ids and not outside and len(set(token_ids)) == len(token_ids):
        return None
    problem = (
        f"names tokens outside the base's vocabulary of {vocabulary}: {some_of(map(str, outside))}"
        if outside
        else "names a token twice, and which of its rows counts is undefined"
        if token_ids
        else "is empty, with which PEFT does not run"
    )
    return error(
        "config",
        f"trainable_token_indices of {name} {problem}.",
        observed=some_of(map(str, token_ids)) or "[]",
        hint="Was it trained on another base model, or with added tokens?" if outside else "Train it again.",
    )


def _check_tensor(
    replaced: ReplacedTensor, tensors: Mapping[str, TensorEntry], base: BaseModel
) -> Iterator[ValidationRow]:
    site = base.sites[replaced.sites[0]]
    count = _vocabulary(site) if replaced.token_ids is None else len(replaced.token_ids)
    shape = (count, site.out_features if site.kind == "embedding" else site.in_features)
    entry = tensors.get(replaced.name)
    setting = "modules_to_save" if replaced.token_ids is None else "trainable_token_indices"
    if entry is None:
        message = f"{CONFIG_NAME} says {setting}, but {WEIGHTS_NAME} lacks {replaced.name} {list(shape)}."
        yield error("tensors", message, expected=str(list(shape)), hint="The file is incomplete; save it again.")
    elif entry.dtype not in FLOAT_BYTES:
        yield error("tensors", f"{replaced.name} is {shown(entry.dtype)}.", expected=", ".join(FLOAT_BYTES))
    elif entry.shape != shape:
        yield error(
            "shape",
            f"{replaced.name} has another shape than this base needs: expected {list(shape)}, found "
            f"{list(entry.shape)}.",
            observed=str(list(entry.shape)),
            expected=str(list(shape)),
            hint="Was the vocabulary resized in training? Serve the resized base, or train without added tokens.",
        )


def _in_file(path: str, tensors: Container[str]) -> str:
    return path if path in tensors else f"{PREFIX}{path}"


def _vocabulary(site: Site) -> int:
    return site.in_features if site.kind == "embedding" else site.out_features


def _replaceable(name: str, base: BaseModel) -> str | None:
    """Which of the two a name means, as PEFT matches it: the whole path or its end."""
    path = name.removeprefix(PREFIX)
    return next((site for site in _ends(base) if f".{site}".endswith(f".{path}")), None)


def _ends(base: BaseModel) -> tuple[str, ...]:
    return (base.embedding,) if base.head is None else (base.embedding, base.head)


def _short_names(base: BaseModel) -> list[str]:
    """As configurations of PEFT name them: embed_tokens, lm_head."""
    return [name.rpartition(".")[2] for name in _ends(base)]
