"""What `model`, and `adapters` beside it, mean: one digest that the engine serves, and the versions it is made of."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from multiflora_adapters.kv_reach import BASE_KV, KvReach
from multiflora_adapters.mixes.recipe import PRUNING, RANDOM, Mix, MixPart, mix_digest, mixed_kv_digest
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.schemas.requests import AdapterWeight, EngineRequest
from multiflora_platform.groups import Group
from multiflora_platform.registry.snapshot.missing_model import Visible
from multiflora_platform.registry.snapshot.snapshot import Resolved, RolloutEntry, SplitEntry
from multiflora_platform.web.openai_errors import invalid, model_not_found, unavailable

MAX_MIX_PARTS = 16
MAX_MIX_WEIGHT = 100.0
_FINGERPRINT_DIGITS = 16
# No adapter can have this name; mixes share one label, because clients make as many as they like.
MIX_LABEL = "(mix)"
ADAPTERS_ARE_OFF = "adapters are off, start the server without --no-enable-lora"


class Bases(Protocol):
    """The base models that are served."""

    def named(self, model: str) -> Group | None: ...

    def of_base(self, digest: str) -> Group | None: ...

    @property
    def names(self) -> Sequence[str]: ...


class Names(Protocol):
    """The registry, as far as names are concerned."""

    def resolve(self, model: str, user: str | None) -> Resolved | None: ...

    def why_missing(self, model: str, visible: Visible, bases: Sequence[str]) -> str | None: ...


@dataclass(frozen=True)
class ResolvedModel:
    """What a request's `model` stands for, decided once; a request keeps it when the alias moves."""

    model: str
    """As the client wrote it."""
    group: Group
    """That answers: of the base model that was named, or that the adapter belongs to."""
    adapter: str | None
    """The registered name, None for the base."""
    digest: str | None
    """What the engine serves: a version's, a mix's, or None for the base."""
    versions: tuple[str, ...] = ()
    """Digests of the adapter versions that it is made of, which must stay while the request runs."""
    rollout: RolloutEntry | None = None
    """The one that decided for this version, or watches it."""
    split: SplitEntry | None = None
    """The one by hand that decided for this version."""
    number: int = 0
    """The version's; 0 for the base and for mixes."""
    part_names: Mapping[str, str] = field(default_factory=dict)
    """Of a mix: what the client called each part, by its digest."""
    kv_reach: KvReach = BASE_KV
    """What its KV depends on."""


def resolve(registry: Names, bases: Bases, principal: Principal, body: EngineRequest, max_rank: int) -> ResolvedModel:
    """What the request asks for. max_rank: of a mix. Raises ApiError."""
    if body.adapters:
        return resolve_mix(registry, bases, principal, body, body.adapters, max_rank)
    if body.combination is not None:
        raise invalid("combination", "combination says how to combine adapters; give them in adapters.")
    return resolve_model(registry, bases, principal, body.model, body.user)


def resolve_model(registry: Names, bases: Bases, principal: Principal, model: str, user: str | None) -> ResolvedModel:
    """user: by whom a split is sticky.

    Raises ApiError: an unknown model is a 404, never the base model; so is one that is not this principal's.
    """
    if not model:
        raise invalid("model", "model is empty; GET /v1/models lists what is served.")
    named = bases.named(model)
    if named is not None and principal.may_use(model):
        return ResolvedModel(model, named, None, None)
    resolved = _resolve(registry, principal, model, user)
    group = None if resolved is None else bases.of_base(resolved.base_digest)
    if resolved is None or group is None:
        raise model_not_found(model, reason=registry.why_missing(model, principal.may_use, bases.names))
    return ResolvedModel(
        model,
        group,
        resolved.name,
        resolved.digest,
        (resolved.digest,),
        resolved.rollout,
        resolved.split,
        resolved.version,
        kv_reach=resolved.kv_reach,
    )


def resolve_mix(
    registry: Names,
    bases: Bases,
    principal: Principal,
    body: EngineRequest,
    adapters: Sequence[AdapterWeight],
    max_rank: int,
) -> ResolvedModel:
    """The base with several adapters combined. adapters: the body's. Raises ApiError naming the part."""
    base = resolve_model(registry, bases, principal, body.model, body.user)
    if base.adapter is not None:
        raise invalid("model", f"model must be the base model {base.group.name!r} when adapters are given.")
    if len(adapters) > MAX_MIX_PARTS:
        raise invalid("adapters", f"adapters holds at most {MAX_MIX_PARTS} adapters, got {len(adapters)}.")
    parts = [
        _part(registry, bases, principal, f"adapters[{index}]", part, body.user) for index, part in enumerate(adapters)
    ]
    for index, part in enumerate(parts):
        if part.base_digest != base.group.base_digest:
            detail = f"The adapter {part.name!r} belongs to another base model than {base.group.name!r}."
            raise invalid(f"adapters[{index}].name", detail)
    versions = tuple(part.digest for part in parts)
    if len(set(versions)) < len(versions):
        raise invalid("adapters", "adapters names the same version twice; add up its weights instead.")
    summands = tuple(MixPart(part.digest, entry.weight) for part, entry in zip(parts, adapters, strict=True))
    combination = body.combination or "cat"
    mix = Mix(summands, combination, _density(body), _seed(body) if combination in RANDOM else 0)
    digest = mix_digest(mix)
    # One adapter at weight 1 is that adapter: it may be of any kind and is known by its own name.
    if digest in versions:
        return ResolvedModel(body.model, base.group, parts[0].name, digest, versions, kv_reach=parts[0].kv_reach)
    _check_combinable(mix, parts, max_rank)
    names = {part.digest: entry.name for part, entry in zip(parts, adapters, strict=True)}
    reach = KvReach(mixed_kv_digest(mix, {part.digest: part.kv_reach.digest for part in parts}))
    return ResolvedModel(body.model, base.group, MIX_LABEL, digest, versions, part_names=names, kv_reach=reach)


def ready_fingerprint(resolved: ResolvedModel) -> str:
    """OpenAI's system_fingerprint: equal where the same weights are computed in the same way, on whatever server; other
    otherwise. Raises ApiError while no engine is ready that computes them."""
    group, ready = resolved.group, resolved.group.engine.ready
    if ready is None:
        raise unavailable("The engine is not ready; it is starting or restarting.")
    # Rotary positions may depend on the engine's length.
    device, length = ready.device.partition(":")[0], ready.max_model_len if group.model.length_sets_rope else None
    parts = msgspec.json.encode((group.base_digest, resolved.digest, device, ready.dtype, length))
    return "fp_" + hashlib.sha256(parts).hexdigest()[:_FINGERPRINT_DIGITS]


def _resolve(registry: Names, principal: Principal, model: str, user: str | None) -> Resolved | None:
    resolved = registry.resolve(model, user)
    return resolved if resolved is not None and principal.may_use(resolved.name, resolved.owner) else None


def _part(
    registry: Names, bases: Bases, principal: Principal, place: str, part: AdapterWeight, user: str | None
) -> Resolved:
    resolved = _resolve(registry, principal, part.name, user)
    if resolved is None:
        reason = registry.why_missing(part.name, principal.may_use, bases.names)
        raise model_not_found(part.name, f"{place}.name", reason)
    if not math.isfinite(part.weight) or part.weight == 0 or abs(part.weight) > MAX_MIX_WEIGHT:
        raise invalid(
            f"{place}.weight", f"{place}.weight must be from -{MAX_MIX_WEIGHT:g} to {MAX_MIX_WEIGHT:g} and not 0."
        )
    return resolved


def _density(body: EngineRequest) -> float:
    density = body.density
    if body.combination not in PRUNING:
        if density is not None:
            raise invalid("density", f"density is read with a combination that prunes: {', '.join(sorted(PRUNING))}.")
        return 1.0
    if density is None or not 0 < density <= 1:
        raise invalid(
            "density", f"combination {body.combination!r} needs density: the share of values kept, above 0, at most 1."
        )
    return density


def _seed(body: EngineRequest) -> int:
    """Of what DARE keeps; a request's own seed serves where it names no other."""
    seed = body.combination_seed if body.combination_seed is not None else getattr(body, "seed", None) or 0
    if not -(2**63) <= seed < 2**63:
        raise invalid("combination_seed", "combination_seed must be a 64-bit integer.")
    return seed


def _check_combinable(mix: Mix, parts: Sequence[Resolved], max_rank: int) -> None:
    if dora := next((part.name for part in parts if part.shape.is_dora), None):
        raise invalid("adapters", f"The adapter {dora!r} uses DoRA, which can be neither scaled nor summed.")
    if activated := next((part.name for part in parts if part.kv_reach.invocation), None):
        raise invalid("adapters", f"The adapter {activated!r} is an activated LoRA, which can be no part of a mix.")
    ranks = [part.shape.rank for part in parts]
    if mix.combination == "cat" and sum(ranks) > max_rank:
        raise invalid("adapters", f"The ranks of adapters add up to {sum(ranks)}; --max-lora-rank is {max_rank}.")
    if mix.combination not in ("cat", "svd") and len(set(ranks)) > 1:
        different = ", ".join(f"{part.name} has {part.shape.rank}" for part in parts)
        raise invalid(
            "combination", f"combination {mix.combination!r} needs adapters of one rank: {different}. Use cat or svd."
        )
