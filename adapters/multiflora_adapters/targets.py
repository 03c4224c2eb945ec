"""Whether a file has tensors for all that its configuration says was trained. Torch-free; knows no shapes."""

from __future__ import annotations

from collections.abc import Mapping, Set

from multiflora_adapters.base_model import BaseModel
from multiflora_adapters.lora_config import CONFIG_NAME, AdapterConfig
from multiflora_adapters.module_patterns import ModuleMatcher
from multiflora_adapters.report import ValidationRow, error, some_of, warning

INCOMPLETE = "The file is incomplete, or was trained on another base model; save the adapter again."


def check_targets(
    config: AdapterConfig,
    matcher: ModuleMatcher,
    modules: Set[str],
    whole: Set[str],
    base: BaseModel,
    *,
    has_fused: bool,
) -> list[ValidationRow]:
    """Compare the configuration with the file: less in the file is an incomplete file, more is only odd.

    modules: with LoRA. has_fused: whether all experts of a layer have some at once. whole: replaced ones, on which PEFT
    puts no LoRA, whatever target_modules says.
    """
    if both := sorted(modules & whole):
        hint = "PEFT trains a module with one of the two; train it again with one of them."
        return [error("tensors", f"{', '.join(both)} is replaced and has LoRA tensors, too.", hint=hint)]
    if config.ensure_weight_tying and any(base.all_sites[m].layer is None for m in modules):
        return [
            error(
                "config",
                "ensure_weight_tying ties the adapters of embedding and head, which is not served.",
                hint="Train with ensure_weight_tying=False.",
            )
        ]
    if config.target_modules is None and not config.target_parameters:
        return [warning("config", "target_modules is missing; the tensors in the file decide.")]
    as_parameters = _targeted_weights(matcher, base)
    if config.target_parameters and not as_parameters and not has_fused:
        message = "target_parameters names no parameter of the base that LoRA is served on."
        hint = "Was it trained on another base model? Linears and the experts of a mixture are served."
        return [error("config", message, observed=some_of(config.target_parameters), hint=hint)]
    targets = (_targeted_modules(matcher, modules, base) | as_parameters) - whole
    absent = sorted(targets - modules)
    rows = []
    if absent:
        rows.append(
            error(
                "modules",
                f"{len(absent)} modules named by target_modules have no tensors: {some_of(absent)}.",
                observed=str(len(modules)),
                expected=str(len(targets)),
                hint=INCOMPLETE,
            )
        )
    surplus = sorted(modules - targets)
    if surplus and not targets and not has_fused:
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


def _targeted_modules(matcher: ModuleMatcher, modules: Set[str], base: BaseModel) -> set[str]:
    """Sites that target_modules means. modules: those that have LoRA."""
    targets = {name for name, site in base.all_sites.items() if matcher.is_target(site)}
    # Where the training had no modules for routers or for experts (transformers 5), PEFT took no names for theirs.
    for group in (base.routers, base.expert_places.keys()):
        if not modules & group:
            targets -= group
    return targets


def _targeted_weights(matcher: ModuleMatcher, base: BaseModel) -> set[str]:
    """Sites whose weight target_parameters means."""
    linears = (name for name, site in base.sites.items() if site.kind == "linear" and site.layer is not None)
    return {name for name in linears if matcher.is_target_parameter(base.weight_in_transformers(name))}


def check_all_biases(modules: Mapping[str, Mapping[str, str]], base: BaseModel) -> list[ValidationRow]:
    """With bias="all" PEFT saves the biases of linears without LoRA, too (plan_layout checks those with it)."""
    absent = [f"{name}.bias" for name, site in base.sites.items() if site.has_bias and name not in modules]
    if not absent:
        return []
    message = f"{len(absent)} biases are missing, though {CONFIG_NAME} says bias='all': {some_of(absent)}."
    return [error("tensors", message, hint=INCOMPLETE)]
