"""Which tensors of an adapter are LoRA on all experts of a layer at once, as of PEFT's target_parameters. Torch-free.

Source: peft.tuners.lora.layer.ParamWrapper, and BaseTuner._inject_parameters for what wraps what.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from multiflora_adapters.base_model import BaseModel, ExpertLinear, SparseLayer
from multiflora_adapters.lora_config import CONFIG_NAME, AdapterConfig
from multiflora_adapters.module_patterns import ModuleMatcher
from multiflora_adapters.report import ValidationRow, error, shown
from multiflora_adapters.tensor_file import FLOAT_BYTES, WEIGHTS_NAME, TensorEntry
from multiflora_adapters.tensor_names import WRAPPED, split_tensor_name, unwrapped

_FUSED = ("gate_up_proj", "down_proj")  # in the order in which PEFT wraps them


@dataclass(frozen=True)
class FusedLora:
    """LoRA on one parameter, [E, N, K] or [E, K, N], of all experts of a layer; `plan_fused` fills it.

    Semantics, for expert e: A[e] = A.view(E, rank, K)[e], B[e] = B.view(N, rank, E)[:, :, e]. Of a swapped one, A has
    N columns and B has K rows: PEFT 0.17 and 0.18 took [E, N, K] for [E, in, out], and the two change their parts.
    """

    linears: tuple[ExpertLinear, ...]  # whose rows of each expert follow one another: gate and up, or down alone
    rank: int  # of each expert, as the configuration says; the shapes are checked against it
    scaling: float
    a: str  # in the file: [E * rank, K]
    b: str  # in the file: [N, rank * E]
    is_swapped: bool

    @property
    def num_experts(self) -> int:
        return len(self.linears[0].sites)

    @property
    def in_features(self) -> int:
        return self.linears[0].sites[0].in_features

    @property
    def out_features(self) -> int:
        return sum(linear.out_features for linear in self.linears)

    @property
    def num_elements(self) -> int:
        """On the device, where gate and up have an A each."""
        return self.num_experts * self.rank * (len(self.linears) * self.in_features + self.out_features)


def plan_fused(
    config: AdapterConfig, tensors: Mapping[str, TensorEntry], base: BaseModel, matcher: ModuleMatcher
) -> tuple[list[FusedLora], set[str], list[ValidationRow]]:
    """What target_parameters says is there, the names of its tensors, and rows for all that does not fit.

    Raises AdapterError for a bad expression in config.
    """
    if not config.target_parameters:
        return [], set(), []
    places = {}
    for name in tensors:
        if (place := split_tensor_name(name)) is not None:
            places[base.own_name(place[0]), place[1]] = name
    planned: list[FusedLora] = []
    found: set[str] = set()
    rows: list[ValidationRow] = []
    for layer in base.sparse_layers:
        for parameter, linears, wraps in _wrappers(layer, matcher):
            names = [places.get((layer.experts + wraps, kind)) for kind in ("lora_A", "lora_B")]
            found |= {name for name in names if name is not None}
            a, b = names
            if a is None or b is None:
                rows.append(
                    _missing_row(
                        parameter, f"{layer.experts_in_transformers}{wraps}.{'lora_B' if a else 'lora_A'}.weight"
                    )
                )
                continue
            wanted = FusedLora(linears, matcher.rank(parameter), matcher.scaling(parameter), a, b, is_swapped=False)
            problems, is_swapped = _check_shapes(parameter, wanted, tensors, may_be_swapped=not layer.is_in_out)
            rows.extend(problems)
            planned.append(FusedLora(linears, wanted.rank, wanted.scaling, a, b, is_swapped))
    if planned and (config.use_dora or config.lora_bias):
        setting = "use_dora" if config.use_dora else "lora_bias"
        rows.append(
            error(
                "config",
                f"{setting} beside target_parameters, which PEFT does not load either.",
                observed=shown(list(config.target_parameters)),
                hint=f"Train without {setting}.",
            )
        )
    return planned, found, rows


def _wrappers(layer: SparseLayer, matcher: ModuleMatcher) -> Iterator[tuple[str, tuple[ExpertLinear, ...], str]]:
    """(the parameter, its linears, what its wrapper's name adds to the module's) of each that is targeted: the last is
    outside."""
    names = (f"{layer.experts_in_transformers}.{parameter}" for parameter in _FUSED)
    parameters = dict(zip(names, (layer.up, (layer.down,)), strict=True))
    targeted = [name for name in parameters if matcher.is_target_parameter(name)]
    for place, name in enumerate(targeted):
        yield name, parameters[name], WRAPPED * (len(targeted) - 1 - place)


def _missing_row(parameter: str, name: str) -> ValidationRow:
    return error(
        "tensors",
        f"{CONFIG_NAME} says target_parameters, but {WEIGHTS_NAME} lacks {name}, for {parameter}.",
        hint="The file is incomplete, or was trained on another base model; save the adapter again.",
    )


def _check_shapes(
    parameter: str, wanted: FusedLora, tensors: Mapping[str, TensorEntry], *, may_be_swapped: bool
) -> tuple[list[ValidationRow], bool]:
    """Rows for what does not fit, and whether A and B are swapped."""
    rows = wanted.num_experts * wanted.rank
    k, n = wanted.in_features, wanted.out_features
    found = {name: tensors[name].shape for name in (wanted.a, wanted.b)}
    if others := {name: tensors[name].dtype for name in found if tensors[name].dtype not in FLOAT_BYTES}:
        messages = [f"{shown(name)} is {shown(dtype)}." for name, dtype in others.items()]
        return [error("tensors", message, expected=", ".join(FLOAT_BYTES)) for message in messages], False
    expected = {wanted.a: (rows, k), wanted.b: (n, rows)}
    if may_be_swapped and found == {wanted.a: (rows, n), wanted.b: (k, rows)}:
        if k != n:
            return [], True
        return [_ambiguous_row(parameter, k)], False
    return [
        error(
            "shape",
            f"{shown(name)} has another shape than {parameter} of this base and r need: expected "
            f"{list(expected[name])}, found {list(found[name])}.",
            observed=str(list(found[name])),
            expected=str(list(expected[name])),
            hint=f"Check r and rank_pattern: {wanted.num_experts} experts of rank {wanted.rank}. Was it trained on "
            "another base model?",
        )
        for name in found
        if found[name] != expected[name]
    ], False


def _ambiguous_row(parameter: str, size: int) -> ValidationRow:
    return error(
        "shape",
        f"{parameter} is square ({size} x {size}) in this base: PEFT 0.18 takes its inputs for outputs, 0.19 does not, "
        "and the shapes do not tell which of them trained it.",
        observed=f"[{size}, {size}]",
        hint="Train the experts' linears as modules (target_modules), or merge the adapter into the base.",
    )


def wrapped_rank(module: str, matcher: ModuleMatcher) -> int | None:
    """The rank of each expert where this module of the file is a wrapper of all experts of a layer, which a base's
    names would tell for sure: the highest that its parameters have. None: it is none."""
    experts = unwrapped(module)
    parameters = [f"{experts}.{parameter}" for parameter in _FUSED] if experts.endswith(".experts") else []
    return max((matcher.rank(name) for name in parameters if matcher.is_target_parameter(name)), default=None)
