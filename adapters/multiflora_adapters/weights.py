"""From an adapter's files to host tensors that are ready for the device slots: scaled, transposed, DoRA folded.

Knows PEFT's formulas; knows nothing of slots. The content is hashed while it is read, so damage on disk is noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from multiflora_adapters.base_model import BaseModel, Site, SitePart
from multiflora_adapters.dora.norms import SumSquares, alone, column_norm, row_norm
from multiflora_adapters.experts.weights import ExpertWeights, Factors, stacked, unfused
from multiflora_adapters.kv_reach import KvReach, kv_reach
from multiflora_adapters.layout import AdapterLayout, SiteTensors, plan_layout
from multiflora_adapters.lora_config import (
    CONFIG_NAME,
    check_raw_config,
    parse_config,
    read_raw_config,
)
from multiflora_adapters.manifest import hash_file, manifest_digest
from multiflora_adapters.replaced.layout import ReplacedTensor
from multiflora_adapters.report import AdapterError, error
from multiflora_adapters.tensor_bytes import TensorBytes, read_tensors
from multiflora_adapters.tensor_file import WEIGHTS_NAME, read_tensor_file

BaseWeight = Callable[[str], torch.Tensor]

_BEYOND_FLOAT32 = "Save the adapter again, in float32, and compare its output with what was trained."


@dataclass(frozen=True)
class SiteWeights:
    """One site's share of an adapter, contiguous, in the serving dtype.

    a: [r, in_features]; for an embedding [vocabulary, r] (a row per token). b: [r, out_features], scaling folded in.
    magnitude: [out_features] float32 or None; DoRA's m / ||W + scaling * B A||, the factor on base + LoRA.
    shift: [out_features] float32 or None; what the adapter's biases add to the product in the end. r is 0 where they
    are all that there is.
    scaling: the one in b.
    """

    a: torch.Tensor
    b: torch.Tensor
    magnitude: torch.Tensor | None
    shift: torch.Tensor | None = None
    scaling: float = 1.0

    @property
    def rank(self) -> int:
        return self.b.shape[0]

    @property
    def tensors(self) -> list[torch.Tensor]:
        return [tensor for tensor in (self.a, self.b, self.magnitude, self.shift) if tensor is not None]

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> SiteWeights:
        """The same in other memory: move gives it for each tensor."""
        magnitude, shift = (None if one is None else move(one) for one in (self.magnitude, self.shift))
        return SiteWeights(move(self.a), move(self.b), magnitude, shift, self.scaling)

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


@dataclass(frozen=True)
class ReplacedRows:
    """Rows of an adapter that stand in the place of the base's, of its embedding or head."""

    token_ids: torch.Tensor | None  # int64 [n], ascending; None: a row for every token
    values: torch.Tensor  # [n, hidden], in the serving dtype

    @property
    def tensors(self) -> list[torch.Tensor]:
        return [self.values] if self.token_ids is None else [self.token_ids, self.values]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    def moved(self, move: Callable[[torch.Tensor], torch.Tensor]) -> ReplacedRows:
        """The same in other memory: move gives it for each tensor."""
        return ReplacedRows(None if self.token_ids is None else move(self.token_ids), move(self.values))


@dataclass(frozen=True)
class HostAdapter:
    """An adapter in host memory, ready for a slot; made by load_adapter, mix_adapters or zero_adapter."""

    digest: str
    rank: int  # the largest of its sites': the rows that it takes of the pool, at least one
    sites: dict[str, SiteWeights]  # by the site's name; only those that it touches
    num_bytes: int  # of all its tensors
    # By site: of the embedding, the head, or (the same object) of both.
    replaced: Mapping[str, ReplacedRows] = field(default_factory=dict)
    experts: Mapping[str, ExpertWeights] = field(default_factory=dict)  # by `ExpertLinear.name`
    kv_reach: KvReach | None = None  # None: nothing is known of it, so the KV may depend on all of the adapter
    most_own_bytes: int = 0  # where ranks have different parts of it: `own_bytes` of the one that has most
    stage_bytes: tuple[int, ...] = ()  # where stages have different parts of it: `num_bytes` of each, on all its ranks

    @property
    def own_bytes(self) -> int:
        """What replaced rows and experts take of the device, or of that of the rank where they take most, beside the
        rank rows that are there anyway."""
        replaced = {id(rows): rows.num_bytes for rows in self.replaced.values()}
        here = sum(replaced.values()) + sum(experts.num_bytes for experts in self.experts.values())
        return max(here, self.most_own_bytes)


def _is_exact(site: str) -> bool:
    return True


def load_adapter(
    folder: Path,
    base: BaseModel,
    dtype: torch.dtype,
    base_weight: BaseWeight,
    *,
    base_bias: BaseWeight | None = None,
    is_base_exact: Callable[[str], bool] = _is_exact,
    digest: str | None = None,
    part: BaseModel | None = None,
    compared: BaseModel | None = None,
    sum_squares: SumSquares = alone,
) -> HostAdapter:
    """Read the adapter in `folder` for serving in `dtype`.

    base_weight(site name): the base's [out, in] or [vocabulary, hidden] weight; base_bias: its [out] bias, asked only
    for sites that have one. is_base_exact(site name): whether `base_weight` has the checkpoint's values, not those of
    integers made of them. digest: when given, the content must have it. part: what this rank serves of a base that is
    divided among several, and then base_weight and base_bias give; compared: where all is loaded though they give less,
    what they give: an adapter's copies of the base's other weights are compared where these lie; sum_squares: called
    exactly once, after all of the files has been read and checked. Raises AdapterError for content that does not fit or
    changed, OSError when it cannot be read.
    """
    own = base if part is None else part
    raw = read_raw_config(folder / CONFIG_NAME)
    config = parse_config(raw)
    weights = read_tensor_file(folder / WEIGHTS_NAME)
    layout = plan_layout(config, weights.tensors, base)
    for row in (*check_raw_config(raw), *layout.rows):
        if row.severity == "error":
            raise AdapterError(row)
    hasher = hashlib.sha256()
    content = read_tensors(weights, hasher, skip=layout.copies.keys())
    sha256 = {CONFIG_NAME: hash_file(folder / CONFIG_NAME).sha256, WEIGHTS_NAME: hasher.hexdigest()}
    found = manifest_digest(config, sha256)
    if digest is not None and found != digest:
        hint = "Register the adapter again."
        raise AdapterError(error("digest", "The stored adapter is damaged: its content changed.", hint=hint))
    for name, copied in layout.copies.items():
        if copied not in (compared or own).all_sites:
            continue
        content.check_base_copy(name, own.all_sites[copied], base_weight(copied), is_base_exact(copied))
    reach = kv_reach(config, layout, weights, found, content.sha256)
    replaced = {
        name: rows for tensor in layout.replaced for name, rows in _replaced(tensor, content, own, dtype).items()
    }
    sites, experts = _prepare_all(layout, content, own, dtype, base_weight, base_bias, sum_squares)
    adapter = HostAdapter(found, layout.pool_rank(base), sites, 0, replaced, experts, reach)
    return replace(adapter, num_bytes=sum(site.num_bytes for site in sites.values()) + adapter.own_bytes)


@dataclass(frozen=True)
class _Unnormed:
    """A site's share of an adapter, whose norms are not known yet."""

    site: Site
    weights: SiteWeights  # magnitude: as it was trained
    norms: torch.Tensor | None  # float32 [out_features], over the inputs that are here; None without DoRA

    @property
    def has_all_inputs(self) -> bool:
        return self.site.part is None or self.site.part.columns is None


def _prepare_all(
    layout: AdapterLayout,
    content: TensorBytes,
    base: BaseModel,
    dtype: torch.dtype,
    base_weight: BaseWeight,
    base_bias: BaseWeight | None,
    sum_squares: SumSquares,
) -> tuple[dict[str, SiteWeights], dict[str, ExpertWeights]]:
    """Of the pool's sites, and of experts, by the names of their linears. base: what is served of it here."""
    linears = {linear.name: linear for layer in base.sparse_layers for linear in layer.linears}
    experts: dict[str, ExpertWeights] = {}
    for fused in layout.fused:
        if fused.linears[0].name not in linears:
            continue
        own = tuple(linears[linear.name] for linear in fused.linears)
        experts |= unfused(fused, own, content.take(fused.a), content.take(fused.b), dtype)
    unnormed = [
        _prepare(planned, base.all_sites[planned.site.name], content, dtype, base_weight, base_bias)
        for planned in layout.sites
        if planned.site.name in base.all_sites
    ]
    sites: dict[str, SiteWeights] = {}
    parts: dict[str, dict[int, Factors]] = {}
    for name, prepared in _normed(unnormed, sum_squares).items():
        if name in base.expert_places:
            linear, expert = base.expert_places[name]
            parts.setdefault(linear.name, {})[expert] = prepared.a, prepared.b, prepared.magnitude
        else:
            _check_finite(prepared.tensors, name, dtype)
            sites[name] = prepared
    experts |= {name: stacked(linears[name], factors) for name, factors in parts.items()}
    for name, weights in experts.items():
        _check_finite(weights.tensors, name, dtype)
    return sites, experts


def _normed(unnormed: Iterable[_Unnormed], sum_squares: SumSquares) -> dict[str, SiteWeights]:
    """By site, magnitudes divided by the norms over all inputs."""
    sites = {one.site.name: one for one in unnormed}
    norms = {name: one.norms for name, one in sites.items() if one.norms is not None}
    divided = {name: norm.square() for name, norm in norms.items() if not sites[name].has_all_inputs}
    norms |= {name: squares.sqrt() for name, squares in sum_squares(divided).items()}
    return {
        name: one.weights
        if one.weights.magnitude is None
        else replace(one.weights, magnitude=one.weights.magnitude / norms[name])
        for name, one in sites.items()
    }


def _replaced(
    tensor: ReplacedTensor, content: TensorBytes, base: BaseModel, dtype: torch.dtype
) -> dict[str, ReplacedRows]:
    names = [name for name in tensor.sites if name in base.sites]
    if not names:
        return {}
    values, token_ids = content.take(tensor.name).to(dtype), None
    if tensor.token_ids is not None:
        token_ids, order = torch.tensor(tensor.token_ids, dtype=torch.int64).sort()
        values = values[order]
    _check_finite([values], tensor.sites[0], dtype)
    whole = ReplacedRows(token_ids, values.contiguous())
    return {name: _rows_here(whole, base.sites[name].part) for name in names}


def _rows_here(whole: ReplacedRows, part: SitePart | None) -> ReplacedRows:
    """Of a head that is divided among ranks, those of this rank's tokens, counted from the first of them."""
    if part is None or part.rows is None:
        return whole
    ((first, end),) = part.rows
    if whole.token_ids is None:
        return ReplacedRows(None, whole.values[first:end].clone())
    here = (whole.token_ids >= first) & (whole.token_ids < end)
    return ReplacedRows(whole.token_ids[here] - first, whole.values[here])


def _prepare(
    planned: SiteTensors,
    site: Site,
    content: TensorBytes,
    dtype: torch.dtype,
    base_weight: BaseWeight,
    base_bias: BaseWeight | None,
) -> _Unnormed:
    """site: what is served of the planned one here."""
    outputs, inputs = site.stored_shape
    a = torch.empty(0, inputs) if planned.a is None else content.take(planned.a)
    b = torch.empty(outputs, 0) if planned.b is None else content.take(planned.b)
    a, scaled = _own_inputs(a, site), _as_served(b, site).to(torch.float32).t() * planned.scaling
    magnitude, norms = None, None
    if planned.magnitude is not None:
        norm = column_norm if site.kind == "embedding" else row_norm
        norms = norm(base_weight(site.name), a.to(torch.float32), scaled)
        magnitude = _as_served(content.take(planned.magnitude), site).to(torch.float32)
    shift = _shift(planned, site, content, base_bias)
    oriented = _oriented(a, site).to(dtype).contiguous()
    weights = SiteWeights(oriented, scaled.to(dtype).contiguous(), magnitude, shift, planned.scaling)
    return _Unnormed(site, weights, norms)


def _shift(planned: SiteTensors, site: Site, content: TensorBytes, base_bias: BaseWeight | None) -> torch.Tensor | None:
    """PEFT scales the bias beside B as B itself; the trained bias of the base stands in its place, beside DoRA, too."""
    shift = None
    if planned.lora_bias is not None:
        shift = _as_served(content.take(planned.lora_bias), site).to(torch.float32) * planned.scaling
    if planned.bias is not None:
        assert base_bias is not None, "who loads adapters with trained biases brings the base's"
        trained = _as_served(content.take(planned.bias), site).to(torch.float32)
        replaced = trained - base_bias(site.name).to(device="cpu", dtype=torch.float32)
        shift = replaced if shift is None else shift + replaced
    return shift if site.part is None or site.part.adds_biases else None


def _as_served(outputs: torch.Tensor, site: Site) -> torch.Tensor:
    """outputs: [all of the checkpoint's, ...]. Returns those of the site, in the order of the base's rows here."""
    return outputs if site.row_order is None else outputs[torch.tensor(site.row_order)]


def _own_inputs(a: torch.Tensor, site: Site) -> torch.Tensor:
    """a: [r, all of the checkpoint's]. Returns [r, in_features]."""
    return a if site.part is None or site.part.columns is None else a[:, slice(*site.part.columns)]


def _oriented(a: torch.Tensor, site: Site) -> torch.Tensor:
    return a.t() if site.kind == "embedding" else a


def _check_finite(tensors: Iterable[torch.Tensor], site: str, dtype: torch.dtype) -> None:
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
        message = f"{site} holds values that {str(dtype).removeprefix('torch.')} cannot express."
        hint = "Serve with --dtype bfloat16 or float32." if dtype == torch.float16 else _BEYOND_FLOAT32
        raise AdapterError(error("values", message, hint=hint))
