"""Which tensors of an adapter belong to which site of the base model, and whether they fit. Torch-free.

The tensors in the file are the truth for what is touched: each must find its place, or the adapter is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from multiflora_adapters.base_model import BaseModel, Site
from multiflora_adapters.experts.layout import FusedLora, plan_fused
from multiflora_adapters.lora_config import CONFIG_NAME, AdapterConfig
from multiflora_adapters.module_patterns import LoraRule, ModuleMatcher
from multiflora_adapters.replaced.layout import ReplacedTensor, plan_replaced
from multiflora_adapters.report import (
    ValidationRow,
    error,
    shown,
    some_of,
)
from multiflora_adapters.targets import INCOMPLETE, check_all_biases, check_targets
from multiflora_adapters.tensor_file import FLOAT_BYTES, TensorEntry
from multiflora_adapters.tensor_names import PREFIX, split_tensor_name

_ANOTHER_BASE = "Was it trained on another base model?"
_LORA_ONLY = "Train with bias='lora_only'."
_NOT_NAMED = "Save the adapter again with PEFT, whose adapter_config.json names them in target_parameters."
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

    sites: list[SiteTensors]  # linears of experts among them
    fused: list[FusedLora]
    replaced: list[ReplacedTensor]
    copies: dict[str, str]  # tensor name -> site of which it is a copy, to be compared with the base's values
    rows: list[ValidationRow]  # all that does not fit

    @property
    def ranks(self) -> list[int]:
        return [*(site.rank for site in self.sites), *(fused.rank for fused in self.fused)]

    @property
    def num_modules(self) -> int:
        """Of the base, that it touches."""
        whole = {name for tensor in self.replaced for name in tensor.sites}
        return len(self.sites) + sum(len(f.linears) * f.num_experts for f in self.fused) + len(whole)

    def pool_rank(self, base: BaseModel) -> int:
        """Rank rows that it takes of the device's pool; an adapter of experts alone has its place there, too."""
        return max((site.rank for site in self.sites if site.site.name not in base.expert_places), default=1)

    def expert_elements(self, base: BaseModel) -> int:
        """Elements that its experts' LoRA takes of the device, beside the rank rows that are there anyway."""
        own = [site for site in self.sites if site.site.name in base.expert_places]
        elements = sum(site.rank * (site.site.in_features + site.site.out_features) for site in own)
        return elements + sum(fused.num_elements for fused in self.fused)


def plan_layout(config: AdapterConfig, tensors: Mapping[str, TensorEntry], base: BaseModel) -> AdapterLayout:
    """Raises AdapterError for a bad expression in config."""
    replaced, rows = plan_replaced(config, tensors, base)
    matcher = ModuleMatcher(config)
    fused, of_fused, found = plan_fused(config, tensors, base, matcher)
    rows += found
    has_fused = bool(fused or found)
    elsewhere = {tensor.name for tensor in replaced} | of_fused
    copies = {name: site for name, site in _plain_copies(tensors, base).items() if name not in elsewhere}
    elsewhere |= copies.keys()
    modules, found = _group_by_module({name: tensors[name] for name in tensors if name not in elsewhere}, base)
    rows += found
    touched: list[SiteTensors] = []
    for module, names in modules.items():
        site = base.all_sites[module]
        rule = matcher.rule(module, base.weight_in_transformers(module))
        expected = _expected_tensors(site, config, rule.rank, has_lora=names.keys() != {"bias"})
        missing = [kind for kind in expected if kind not in names]
        surplus = [names[kind] for kind in names if kind not in {*expected, "base_layer"}]
        if missing or surplus:
            rows.append(_pairing_row(site, missing, surplus, expected))
            continue
        planned = _plan_site(site, names, rule)
        rows.extend(_check_shapes(planned, expected, names, tensors))
        rows.extend(_check_biases(planned, base))
        touched.append(planned)
    adapted = {module for module, names in modules.items() if names.keys() != {"bias"}}
    whole = {name for tensor in replaced for name in tensor.sites}
    rows.extend(check_targets(config, matcher, adapted, whole, base, has_fused=has_fused))
    if config.alora_invocation_tokens is not None:
        rows.extend(_check_activated(config.alora_invocation_tokens, touched, base))
    if config.bias == "all":
        rows.extend(check_all_biases(modules, base))
    if both := {site.name for lora in fused for linear in lora.linears for site in linear.sites} & adapted:
        message = f"{some_of(sorted(both))} have LoRA of their own and with all experts."
        rows.append(error("tensors", message, hint="Save one adapter per file."))
    if not adapted and not has_fused:
        rows.append(error("modules", "The adapter touches no module of the base model.", hint=_ANOTHER_BASE))
    copies |= {site.base_copy: site.site.name for site in touched if site.base_copy}
    return AdapterLayout(touched, fused, replaced, copies, rows)


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
        site = None if module is None else base.site(module)
        if module is None:
            if name.endswith(".weight"):
                weights.append(_whole_weight(name, entry, base))
            else:
                unknown.append(name)
        elif site is None:
            is_norm = kind == "bias" and module.rpartition(".")[2] not in linears
            (of_mixtures if base.is_in_mixture(module) else norm_biases if is_norm else unserved).append(name)
        elif kind in modules.get(site.name, {}):
            repeated.append(name)
        else:
            modules.setdefault(site.name, {})[kind] = name
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
            (of_mixtures, f"are of a mixture's parts that neither {CONFIG_NAME} nor the base names", _NOT_NAMED),
            (repeated, "are a second one for the same place", "Save one adapter per file."),
        )
        if names
    ]
    return modules, rows


def _whole_weight(name: str, entry: TensorEntry, base: BaseModel) -> str:
    """Its name, with both shapes where only a copy of another shape is refused: a vocabulary that was resized."""
    site = base.sites.get(name.removeprefix(PREFIX).removesuffix(".weight"))
    if site is None or site.layer is not None or entry.shape == (needed := _weight_shape(site)):
        return name
    return f"{name} (its shape is {list(entry.shape)}, the base's {list(needed)})"


def _expected_tensors(site: Site, config: AdapterConfig, rank: int, *, has_lora: bool) -> dict[str, Shape]:
    """Kind -> shape of the tensors that the site must have in the file."""
    expected: dict[str, Shape] = {}
    if has_lora or config.bias == "lora_only":
        infix = "embedding_" if site.kind == "embedding" else ""
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
        return error("tensors", f"{site.name} lacks {lacking}.", expected=listed, hint=INCOMPLETE)
    return error(
        "tensors",
        f"{site.name} has tensors that the configuration or the base does not use: {some_of(surplus)}.",
        expected=listed,
        hint=f"Does {CONFIG_NAME} belong to this file (use_dora, lora_bias, bias), and the base to both?",
    )


def _plan_site(site: Site, names: Mapping[str, str], rule: LoraRule) -> SiteTensors:
    infix = "embedding_" if site.kind == "embedding" else ""
    a = names.get(f"lora_{infix}A")
    return SiteTensors(
        site=site,
        rank=0 if a is None else rule.rank,
        scaling=rule.scaling,
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


def _check_activated(invocation: tuple[int, ...], touched: list[SiteTensors], base: BaseModel) -> list[ValidationRow]:
    rows = []
    vocabulary = base.sites[base.embedding].in_features if base.embedding in base.sites else None
    if vocabulary is not None and not all(0 <= token < vocabulary for token in invocation):
        message = "alora_invocation_tokens has tokens that the base does not know."
        rows.append(error("config", message, expected=f"0 to {vocabulary - 1}", hint=_ANOTHER_BASE))
    others = [t.site.name for t in touched if t.site.kind != "linear" or base.is_in_mixture(t.site.name)]
    if others:
        message = f"Activated LoRA on {some_of(others)} is not served, nor does PEFT apply it there."
        rows.append(error("modules", message, hint="Train it on linears of attention, MLP and head."))
    return rows


def _check_biases(planned: SiteTensors, base: BaseModel) -> list[ValidationRow]:
    named = [name for name in (planned.lora_bias, planned.bias) if name is not None]
    if not named or planned.site.name not in base.expert_places:
        return []
    message = f"{some_of(named)} is a bias of an expert, which is not served."
    return [error("tensors", message, hint="Train it with bias='none' and lora_bias=False.")]


def _weight_shape(site: Site) -> tuple[int, int]:
    shape = (site.out_features, site.in_features)
    return shape if site.kind == "linear" else (shape[1], shape[0])
