"""Which tensors of an adapter belong to which site of the base model, and whether they fit. Torch-free.

The tensors in the file are the truth for what is touched: each must find its place, or the adapter is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from multiflora_adapters.base_model import BaseModel, Site
from multiflora_adapters.lora_config import CONFIG_NAME, AdapterConfig
from multiflora_adapters.module_patterns import ModuleMatcher
from multiflora_adapters.report import (
    ValidationRow,
    error,
    shown,
    some_of,
    warning,
)
from multiflora_adapters.tensor_file import FLOAT_BYTES, TensorEntry

_KINDS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")
_PREFIX = "base_model.model."
_ANOTHER_BASE = "Was it trained on another base model?"
_INCOMPLETE = "The file is incomplete, or was trained on another base model; save the adapter again."
_WHOLE_WEIGHTS = "Train without modules_to_save, bias and resized vocabulary (save_embedding_layers=False)."


@dataclass(frozen=True)
class SiteTensors:
    """The tensors of one touched site, by their names in the file; `plan_layout` fills it."""

    site: Site
    rank: int  # as the configuration says; the shapes are checked against it
    scaling: float  # of B A
    a: str  # [rank, in_features]
    b: str  # [out_features, rank]
    magnitude: str | None  # [out_features]; only with DoRA
    base_copy: str | None  # PEFT's copy of the base's own weight beside embeddings: [vocabulary, hidden]


def split_tensor_name(name: str) -> tuple[str, str] | None:
    """(module, kind) of a tensor name as PEFT's versions write it, or None when it is no LoRA tensor.

    With or without `base_model.model.`, an adapter's name (`lora_A.default.weight`) and the final `.weight`.
    """
    path = name.removeprefix(_PREFIX)
    if path.endswith(".base_layer.weight"):
        return path.removesuffix(".base_layer.weight"), "base_layer"
    parts = path.removesuffix(".weight").split(".")
    for position in (len(parts) - 1, len(parts) - 2):
        if position > 0 and parts[position] in _KINDS and parts[-1] != "bias":
            return ".".join(parts[:position]), parts[position]
    return None


def plain_copies(tensors: Mapping[str, TensorEntry], base: BaseModel) -> dict[str, Site]:
    """Tensor name -> site of the whole embeddings and heads that PEFT saves beside the LoRA (save_embedding_layers).

    They are accepted if they have the base's shape, and compared with the base's values when the adapter is loaded.
    """
    found = {}
    for name, entry in tensors.items():
        site = base.sites.get(name.removeprefix(_PREFIX).removesuffix(".weight"))
        is_whole = site is not None and site.layer is None and name.endswith(".weight")
        if site is not None and is_whole and entry.dtype in FLOAT_BYTES and entry.shape == _weight_shape(site):
            found[name] = site
    return found


def plan_layout(
    config: AdapterConfig, tensors: Mapping[str, TensorEntry], base: BaseModel
) -> tuple[list[SiteTensors], list[ValidationRow]]:
    """Every touched site, and rows for all that does not fit. Raises AdapterError for a bad expression in config."""
    modules, rows = _group_by_module(tensors, base)
    matcher = ModuleMatcher(config)
    touched: list[SiteTensors] = []
    for module, names in modules.items():
        site = base.sites[module]
        missing = [kind for kind in _expected_kinds(site, config) if kind not in names]
        surplus = [names[kind] for kind in names if kind not in {*_expected_kinds(site, config), "base_layer"}]
        if missing or surplus:
            rows.append(_pairing_row(site, missing, surplus, config))
            continue
        planned = _plan_site(site, names, config, matcher)
        rows.extend(_check_shapes(planned, tensors))
        touched.append(planned)
    rows.extend(_check_targets(config, matcher, modules, base))
    if not modules:
        rows.append(error("modules", "The adapter touches no module of the base model.", hint=_ANOTHER_BASE))
    return touched, rows


def _group_by_module(
    tensors: Mapping[str, TensorEntry], base: BaseModel
) -> tuple[dict[str, dict[str, str]], list[ValidationRow]]:
    """Tensor names by module and kind, and rows naming the tensors that have no place there."""
    modules: dict[str, dict[str, str]] = {}
    unknown: list[str] = []
    weights: list[str] = []
    unserved: list[str] = []
    repeated: list[str] = []
    copies = plain_copies(tensors, base)
    for name, entry in tensors.items():
        if name in copies:
            continue
        module, kind = split_tensor_name(name) or (None, "")
        if module is None:
            (weights if name.endswith((".weight", ".bias")) else unknown).append(name)
        elif module not in base.sites:
            unserved.append(name)
        elif kind in modules.get(module, {}):
            repeated.append(name)
        else:
            modules.setdefault(module, {})[kind] = name
            if entry.dtype not in FLOAT_BYTES:
                unknown.append(f"{name} ({entry.dtype})")
    rows = [
        error("tensors", f"{len(names)} tensors {problem}: {some_of(names)}.", observed=str(len(names)), hint=hint)
        for names, problem, hint in (
            (
                unknown,
                "are of a kind that is not served",
                "LoRA A and B and DoRA magnitudes in F64, F32, F16 or BF16 are.",
            ),
            (weights, "are whole weights of the base model, which all adapters share", _WHOLE_WEIGHTS),
            (unserved, f"are for modules that {shown(base.name)} does not have", _ANOTHER_BASE),
            (repeated, "are a second one for the same place", "Save one adapter per file."),
        )
        if names
    ]
    return modules, rows


def _expected_kinds(site: Site, config: AdapterConfig) -> list[str]:
    kinds = ["lora_A", "lora_B"] if site.kind == "linear" else ["lora_embedding_A", "lora_embedding_B"]
    return [*kinds, "lora_magnitude_vector"] if config.use_dora else kinds


def _pairing_row(site: Site, missing: list[str], surplus: list[str], config: AdapterConfig) -> ValidationRow:
    expected = ", ".join(_expected_kinds(site, config))
    if missing:
        return error("tensors", f"{site.name} lacks {', '.join(missing)}.", expected=expected, hint=_INCOMPLETE)
    return error(
        "tensors",
        f"{site.name} has tensors that the configuration does not use: {some_of(surplus)}.",
        expected=expected,
        hint="Does adapter_config.json belong to this file? (use_dora)",
    )


def _plan_site(site: Site, names: dict[str, str], config: AdapterConfig, matcher: ModuleMatcher) -> SiteTensors:
    a, b, *magnitude = (names[kind] for kind in _expected_kinds(site, config))
    return SiteTensors(
        site=site,
        rank=matcher.rank(site.name),
        scaling=matcher.scaling(site.name),
        a=a,
        b=b,
        magnitude=magnitude[0] if magnitude else None,
        base_copy=names.get("base_layer"),
    )


def _check_shapes(planned: SiteTensors, tensors: Mapping[str, TensorEntry]) -> list[ValidationRow]:
    site, rank = planned.site, planned.rank
    found_a, found_b = tensors[planned.a].shape, tensors[planned.b].shape
    if found_a[1:] == (site.in_features,) and found_b == (site.out_features, found_a[0]) and found_a[0] != rank:
        return [
            error(
                "rank",
                f"{site.name} has another rank than {CONFIG_NAME} says.",
                observed=str(found_a[0]),
                expected=str(rank),
                hint="Check r and rank_pattern.",
            )
        ]
    expected: dict[str | None, tuple[int, ...]] = {
        planned.a: (rank, site.in_features),
        planned.b: (site.out_features, rank),
        planned.magnitude: (site.out_features,),
        planned.base_copy: _weight_shape(site),
    }
    return [
        error(
            "shape",
            f"{shown(name)} has another shape than this base needs: expected {list(shape)}, found "
            f"{list(tensors[name].shape)}. Was it trained on another base?",
            observed=str(list(tensors[name].shape)),
            expected=str(list(shape)),
            hint="Register it with the base model it was trained on.",
        )
        for name, shape in expected.items()
        if name is not None and tensors[name].shape != shape
    ]


def _weight_shape(site: Site) -> tuple[int, int]:
    shape = (site.out_features, site.in_features)
    return shape if site.kind == "linear" else (shape[1], shape[0])


def _check_targets(
    config: AdapterConfig, matcher: ModuleMatcher, modules: Mapping[str, object], base: BaseModel
) -> list[ValidationRow]:
    """Compare the configuration with the file: less in the file is an incomplete file, more is only odd."""
    if config.ensure_weight_tying and any(base.sites[m].layer is None for m in modules):
        return [
            error(
                "config",
                "ensure_weight_tying ties the adapters of embedding and head, which is not served.",
                hint="Train with ensure_weight_tying=False.",
            )
        ]
    if config.target_modules is None:
        return [warning("config", "target_modules is missing; the tensors in the file decide.")]
    targets = {name for name, site in base.sites.items() if matcher.is_target(site)}
    absent = sorted(targets - modules.keys())
    rows = []
    if absent:
        rows.append(
            error(
                "modules",
                f"{len(absent)} modules named by target_modules have no tensors: {some_of(absent)}.",
                observed=str(len(modules)),
                expected=str(len(targets)),
                hint=_INCOMPLETE,
            )
        )
    surplus = sorted(modules.keys() - targets)
    if surplus:
        rows.append(
            warning(
                "modules",
                f"{len(surplus)} modules have tensors but are not named by target_modules; they are "
                f"served: {some_of(surplus)}.",
                hint="PEFT would leave these tensors out.",
            )
        )
    return rows
