"""May this adapter be served on this base model? A report that says so, row by row. Torch-free.

Nothing in an adapter's files makes `validate_adapter` raise: what cannot be read is an error row (it fails closed).
"""

from __future__ import annotations

import os
from pathlib import Path

from multiflora_adapters.base_model import BaseModel, model_name
from multiflora_adapters.layout import AdapterLayout, plan_layout
from multiflora_adapters.lora_config import (
    CONFIG_NAME,
    AdapterConfig,
    check_raw_config,
    parse_config,
    read_raw_config,
)
from multiflora_adapters.replaced.layout import MEMORY_SETTING
from multiflora_adapters.report import (
    AdapterError,
    AdapterReport,
    Severity,
    ValidationRow,
    error,
    passed,
    shown,
    some_of,
    warning,
)
from multiflora_adapters.tensor_file import (
    WEIGHTS_NAME,
    TensorFile,
    count_non_finite,
    has_non_zero,
    read_pieces,
    read_tensor_file,
)

__all__ = ["AdapterReport", "Severity", "ValidationRow", "validate_adapter"]


def validate_adapter(folder: Path, base: BaseModel, max_rank: int) -> AdapterReport:
    """Check the adapter in `folder` against `base` and the largest rank served. Bad content never raises."""
    rows: list[ValidationRow] = []
    try:
        _validate(folder, base, max_rank, rows)
    except AdapterError as problem:
        rows.append(problem.row)
    except OSError as problem:
        reason = problem.strerror or shown(problem)
        rows.append(error("file", f"The adapter cannot be read: {reason}.", hint="Upload it again."))
    except Exception as problem:  # a gap in the checks must refuse the adapter, not end the registration
        rows.append(error("internal", f"The check itself failed: {shown(repr(problem))}.", hint="Please report this."))
    return AdapterReport(rows)


def _validate(folder: Path, base: BaseModel, max_rank: int, rows: list[ValidationRow]) -> None:
    raw = read_raw_config(folder / CONFIG_NAME)
    rows.extend(check_raw_config(raw))
    if any(row.severity == "error" for row in rows):
        return  # the tensors of another method would only add rows that mislead
    config = parse_config(raw)
    rows.append(passed("config", f"{CONFIG_NAME} describes a LoRA of rank {config.r}."))
    weights = read_tensor_file(folder / WEIGHTS_NAME)
    rows.append(passed("file", f"{WEIGHTS_NAME} is sound: {len(weights.tensors)} tensors."))
    _note_base(config, base, rows)
    layout = plan_layout(config, weights.tensors, base)
    rows.extend(layout.rows)
    rows.extend(_check_ranks(layout.ranks, max_rank))
    if any(row.severity == "error" for row in layout.rows):
        return
    tensors, modules = len(weights.tensors), layout.num_modules
    rows.append(passed("tensors", f"All {tensors} tensors belong to {modules} modules of the base."))
    rows.extend(_note_memory(layout, weights, base))
    rows.extend(_check_values(weights, layout))


def _note_base(config: AdapterConfig, base: BaseModel, rows: list[ValidationRow]) -> None:
    trained_on = config.base_model_name_or_path
    if trained_on and model_name(trained_on) not in (model_name(base.name), ""):
        message = f"The adapter names {shown(trained_on)} as its base; this server runs {shown(base.name)}."
        rows.append(
            ValidationRow(
                check="base",
                severity="warning",
                message=message,
                observed=shown(trained_on),
                expected=base.name,
                hint="Fine when both are the same model under two names.",
            )
        )


def _check_ranks(ranks: list[int], max_rank: int) -> list[ValidationRow]:
    highest = max(ranks, default=0)
    if highest <= max_rank:
        return [passed("rank", f"The rank is {highest} (at most {max_rank}).")] if highest else []
    return [
        error(
            "rank",
            f"Rank {highest} is more than this server's limit of {max_rank}.",
            observed=str(highest),
            expected=f"<= {max_rank}",
            hint=f"Start the server with --max-lora-rank {highest}.",
        )
    ]


def _note_memory(layout: AdapterLayout, weights: TensorFile, base: BaseModel) -> list[ValidationRow]:
    """What replaced rows and experts take of the device, beside the rank rows that are there anyway."""
    replaced = sum(weights.tensors[tensor.name].num_elements for tensor in layout.replaced)
    names = ", ".join(dict.fromkeys(name for tensor in layout.replaced for name in tensor.sites))
    notes = {f"{names}: rows of its own take": replaced, "LoRA on experts takes": layout.expert_elements(base)}
    return [
        ValidationRow(
            check="memory",
            severity="info",
            message=f"{what} {4 * elements} bytes of the device in float32, {2 * elements} in bfloat16.",
            hint=MEMORY_SETTING,
        )
        for what, elements in notes.items()
        if elements
    ]


def _check_values(weights: TensorFile, layout: AdapterLayout) -> list[ValidationRow]:
    """Read every value once: NaN and infinity forbid serving; only zeros in B and biases: nothing was learned."""
    bad: list[str] = []
    effective = False
    sites = layout.sites
    effects = {name for site in sites for name in (site.b, site.lora_bias, site.bias)}
    effects |= {fused.b for fused in layout.fused}
    with weights.path.open("rb") as file:
        if os.fstat(file.fileno()).st_size < weights.data_start:
            raise AdapterError(error("file", f"{WEIGHTS_NAME} changed while it was being checked."))
        for name, entry in weights.tensors.items():
            non_finite = 0
            for piece in read_pieces(file, weights, entry):
                non_finite += count_non_finite(piece, entry.dtype)
                effective = effective or (name in effects and has_non_zero(piece, entry.dtype))
            if non_finite:
                bad.append(name)
    if bad:
        message = f"{len(bad)} tensors hold NaN or infinity: {some_of(bad)}."
        return [error("values", message, observed=f"{len(bad)} tensors", hint="The training diverged; train it again.")]
    if not effective and not layout.replaced and not any(site.magnitude for site in sites):
        hint = "Was the adapter saved before it was trained?"
        return [warning("values", "Every B is zero: the adapter has no effect.", hint=hint)]
    return [passed("values", "All values are finite.")]
