"""Which tensors of an adapter belong to which site of the base model, and whether they fit. Torch-free.

The tensors in the file are the truth for what is touched: each must find its place, or the adapter is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from multiflora_adapters.base_model import BaseModel, Site
from multiflora_adapters.lora_config import CONFIG_NAME, AdapterConfig
from multiflora_adapters.module_patterns import ModuleMatcher
from multiflora_adapters.replaced.layout import ReplacedTensor, plan_replaced
from multiflora_adapters.report import (
    ValidationRow,
    error,
    shown,
    some_of,
    warning,
)
from multiflora_adapters.tensor_file import FLOAT_BYTES, TensorEntry
from multiflora_adapters.tensor_names import PREFIX, split_tensor_name

_ANOTHER_BASE = "Was it trained on another base model?"
_INCOMPLETE = "The file is incomplete, or was trained on another base model; save the adapter again."
_LORA_ONLY = "Train with bias='lora_only'."
_NOT_EXPERTS = "Train attention and shared experts alone: list their linears in target_modules."
_WHOLE_WEIGHTS = "Train without modules_to_save and resized vocabulary (save_embedding_layers=False)."

Shape = tuple[int, ...]


@dataclass(frozen=True)
class SiteTensors:
    """The tensors of one touched site, by their names in the file; `plan_layout` fills it."""

    site: Site
    rank: int  # as the configuration says; the shapes are checked against it; 0 without a and b
    scaling: float  # of B A and of the bias beside B
    a: str | None  # [rank, in_features]; None where a trained bias is all there is
    b: str | None  # [out_features, rank]; None likewise
    magnitude: str | None  # [out_features]; only with DoRA
    lora_bias: str | None  # [out_features], beside B; only with lora_bias
    bias: str | None  # [out_features], in place of the base's own; only with bias="lora_only" or "all"
    base_copy: str | None  # PEFT's copy of the base's own weight beside embeddings: [vocabulary, hidden]


@dataclass(frozen=True)
class AdapterLayout:
    """Where each tensor of an adapter belongs; `plan_layout` fills it."""

    sites: list[SiteTensors]
    replaced: list[ReplacedTensor]
    copies: dict[str, str]  # tensor name -> site of which it is a copy, to be compared with the base's values
    rows: list[ValidationRow]  # all that does not fit


def plan_layout(config: AdapterConfig, tensors: Mapping[str, TensorEntry], base: BaseModel) -> AdapterLayout:
    """Raises AdapterError for a bad expression in config."""
    replaced, rows = plan_replaced(config, tensors, base)
    elsewhere = {tensor.name for tensor in replaced}
    copies = {name: site for name, site in _plain_copies(tensors, base).items() if name not in elsewhere}
    elsewhere |= copies.keys()
    modules, found = _group_by_module({name: tensors[name] for name in tensors if name not in elsewhere}, base)
    rows += found
    matcher = ModuleMatcher(config)
    touched: list[SiteTensors] = []
    for module, names in modules.items():
        site = base.sites[module]
        expected = _expected_tensors(site, config, matcher, has_lora=names.keys() != {"bias"})
        missing = [kind for kind in expected if kind not in names]
        surplus = [names[kind] for kind in names if kind not in {*expected, "base_layer"}]
        if missing or surplus:
            rows.append(_pairing_row(site, missing, surplus, expected))
            continue
        planned = _plan_site(site, names, matcher)
        rows.extend(_check_shapes(planned, expected, names, tensors))
        touched.append(planned)
    adapted = {module for module, names in modules.items() if names.keys() != {"bias"}}
    whole = {name for tensor in replaced for name in tensor.sites}
    rows.extend(_check_targets(config, matcher, adapted, whole, base))
    if config.bias == "all":
        rows.extend(_check_all_biases(modules, base))
    if not adapted:
        rows.append(error("modules", "The adapter touches no module of the base model.", hint=_ANOTHER_BASE))
    copies |= {site.base_copy: site.site.name for site in touched if site.base_copy}
    return AdapterLayout(touched, replaced, copies, rows)


def _plain_copies(tensors: Mapping[str, TensorEntry], base: BaseModel) -> dict[str, str]:
    """Tensor name -> site of the whole embeddings and heads that PEFT saves beside the LoRA (save_embedding_layers)."""
    found = {}
    for name, entry in tensors.items():
        site = base.sites.get(name.removeprefix(PREFIX).removesuffix(".weight"))
        is_whole = site is not None and site.layer is None and name.endswith(".weight")
        if site is not None and is_whole and entry.dtype in FLOAT_BYTES and entry.shape == _weight_shape(site):
            found[name] = site.name
    return found


def _group_by_module(
    tensors: Mapping[str, TensorEntry], base: BaseModel
) -> tuple[dict[str, dict[str, str]], list[ValidationRow]]:
    """Tensor names by module and kind, and rows naming the tensors that have no place there."""
    modules: dict[str, dict[str, str]] = {}
    unknown: list[str] = []
    weights: list[str] = []
    unserved: list[str] = []
    norm_biases: list[str] = []
    linears = {site.rpartition(".")[2] for site in base.sites}
    of_mixtures: list[str] = []
    repeated: list[str] = []
    for name, entry in tensors.items():
        module, kind = split_tensor_name(name) or (None, "")
        if module is None:
            (weights if name.endswith(".weight") else unknown).append(name)
        elif module not in base.sites:
            is_norm = kind == "bias" and module.rpartition(".")[2] not in linears
            (of_mixtures if base.is_in_mixture(module) else norm_biases if is_norm else unserved).append(name)
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
                "LoRA A and B, DoRA magnitudes and biases in F64, F32, F16 or BF16 are.",
            ),
            (weights, "are whole weights of the base model, which all adapters share", _WHOLE_WEIGHTS),
            (unserved, f"are for modules that {shown(base.name)} does not have", _ANOTHER_BASE),
            (norm_biases, "are biases of norms, which all adapters share", _LORA_ONLY),
            (of_mixtures, "are for routers or experts of a mixture, on which LoRA is not served", _NOT_EXPERTS),
            (repeated, "are a second one for the same place", "Save one adapter per file."),
        )
        if names
    ]
    return modules, rows


def _expected_tensors(site: Site, config: AdapterConfig, matcher: ModuleMatcher, *, has_lora: bool) -> dict[str, Shape]:
    """Kind -> shape of the tensors that the site must have in the file."""
    expected: dict[str, Shape] = {}
    if has_lora or config.bias == "lora_only":
        infix, rank = "embedding_" if site.kind == "embedding" else "", matcher.rank(site.name)
        expected = {f"lora_{infix}A": (rank, site.in_features), f"lora_{infix}B": (site.out_features, rank)}
        if config.use_dora:
            expected["lora_magnitude_vector"] = (site.out_features,)
        if config.lora_bias:
            expected["lora_B.bias"] = (site.out_features,)
    if config.bias != "none" and site.has_bias:
        expected["bias"] = (site.out_features,)
    return expected


def _pairing_row(site: Site, missing: list[str], surplus: list[str], expected: Mapping[str, Shape]) -> ValidationRow:
    listed = ", ".join(f"{kind} {list(shape)}" for kind, shape in expected.items()) or "none"
    if missing:
        lacking = ", ".join(f"{kind} {list(expected[kind])}" for kind in missing)
        return error("tensors", f"{site.name} lacks {lacking}.", expected=listed, hint=_INCOMPLETE)
    return error(
        "tensors",
        f"{site.name} has tensors that the configuration or the base does not use: {some_of(surplus)}.",
        expected=listed,
        hint=f"Does {CONFIG_NAME} belong to this file (use_dora, lora_bias, bias), and the base to both?",
    )


def _plan_site(site: Site, names: Mapping[str, str], matcher: ModuleMatcher) -> SiteTensors:
    infix = "embedding_" if site.kind == "embedding" else ""
    a = names.get(f"lora_{infix}A")
    return SiteTensors(
        site=site,
        rank=0 if a is None else matcher.rank(site.name),
        scaling=matcher.scaling(site.name),
        a=a,
        b=names.get(f"lora_{infix}B"),
        magnitude=names.get("lora_magnitude_vector"),
        lora_bias=names.get("lora_B.bias"),
        bias=names.get("bias"),
        base_copy=names.get("base_layer"),
    )


def _check_shapes(
    planned: SiteTensors, expected: Mapping[str, Shape], names: Mapping[str, str], tensors: Mapping[str, TensorEntry]
) -> list[ValidationRow]:
    site, rank = planned.site, planned.rank
    if planned.a is not None and planned.b is not None:
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
    shapes = dict(expected) | {"base_layer": _weight_shape(site)}
    return [
        error(
            "shape",
            f"{shown(name)} has another shape than this base needs: expected {list(shapes[kind])}, found "
            f"{list(tensors[name].shape)}. Was it trained on another base?",
            observed=str(list(tensors[name].shape)),
            expected=str(list(shapes[kind])),
            hint="Register it with the base model it was trained on.",
        )
        for kind, name in names.items()
        if tensors[name].shape != shapes[kind]
    ]


def _check_all_biases(modules: Mapping[str, Mapping[str, str]], base: BaseModel) -> list[ValidationRow]:
    """With bias="all" PEFT saves the biases of linears without LoRA, too (_expected_tensors checks those with it)."""
    absent = [f"{name}.bias" for name, site in base.sites.items() if site.has_bias and name not in modules]
    if not absent:
        return []
    message = f"{len(absent)} biases are missing, though {CONFIG_NAME} says bias='all': {some_of(absent)}."
    return [error("tensors", message, hint=_INCOMPLETE)]


def _weight_shape(site: Site) -> tuple[int, int]:
    shape = (site.out_features, site.in_features)
    return shape if site.kind == "linear" else (shape[1], shape[0])


def _check_targets(
    config: AdapterConfig, matcher: ModuleMatcher, modules: Set[str], whole: Set[str], base: BaseModel
) -> list[ValidationRow]:
    """Compare the configuration with the file: less in the file is an incomplete file, more is only odd.

    modules: with LoRA. whole: replaced ones, on which PEFT puts no LoRA, whatever target_modules says.
    """
    if both := sorted(modules & whole):
        hint = "PEFT trains a module with one of the two; train it again with one of them."
        return [error("tensors", f"{', '.join(both)} is replaced and has LoRA tensors, too.", hint=hint)]
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
    targets = {name for name, site in base.sites.items() if matcher.is_target(site)} - whole
    absent = sorted(targets - modules)
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
    surplus = sorted(modules - targets)
    if surplus and not targets:
        message = "target_modules, exclude_modules and layers_to_transform together name no module of the base."
        rows.append(error("modules", message, hint="PEFT does not load it either. Name the modules that were trained."))
    elif surplus:
        rows.append(
            warning(
                "modules",
                f"{len(surplus)} modules have tensors but are not named by target_modules; they are "
                f"served: {some_of(surplus)}.",
                hint="PEFT would leave these tensors out.",
            )
        )
    return rows
