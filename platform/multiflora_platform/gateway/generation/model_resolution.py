"""What `model`, and `adapters` beside it, mean: one digest that the engine serves, and the versions it is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from multiflora_adapters.mix import MixPart, mix_digest
from multiflora_platform.auth.principals import Principal
from multiflora_platform.gateway.schemas.requests import AdapterWeight
from multiflora_platform.registry.snapshot.snapshot import Resolved, RolloutEntry
from multiflora_platform.services import Services
from multiflora_platform.web.openai_errors import invalid, model_not_found

MAX_MIX_PARTS = 16
MAX_MIX_WEIGHT = 100.0
# No adapter can have this name; mixes share one label, because clients make as many as they like.
MIX_LABEL = "(mix)"


@dataclass(frozen=True)
class ResolvedModel:
    """model: as the client wrote it. adapter: the registered name, None for the base. digest: what the engine serves.

    versions: digests of the adapter versions that it is made of, which must stay while the request runs.
    rollout: the one that decided for this version, or watches it; number: the version's.
    """

    model: str
    adapter: str | None
    digest: str | None
    versions: tuple[str, ...] = ()
    rollout: RolloutEntry | None = None
    number: int = 0


def resolve_model(services: Services, principal: Principal, model: str, user: str | None) -> ResolvedModel:
    """Raises ApiError: an unknown model is a 404, never the base model; so is one that is not this principal's."""
    if not model:
        raise invalid("model", "model is empty; GET /v1/models lists what is served.")
    if model == services.model.name and principal.may_use(model):
        return ResolvedModel(model, None, None)
    resolved = _resolve(services, principal, model, user)
    if resolved is None:
        raise model_not_found(model)
    return ResolvedModel(model, resolved.name, resolved.digest, (resolved.digest,), resolved.rollout, resolved.version)


def resolve_mix(
    services: Services, principal: Principal, model: str, adapters: Sequence[AdapterWeight], user: str | None
) -> ResolvedModel:
    """The base with a weighted sum of adapters. Raises ApiError naming the part."""
    base = resolve_model(services, principal, model, user)
    if base.adapter is not None:
        raise invalid("model", f"model must be the base model {services.model.name!r} when adapters are given.")
    if len(adapters) > MAX_MIX_PARTS:
        raise invalid("adapters", f"adapters holds at most {MAX_MIX_PARTS} adapters, got {len(adapters)}.")
    parts = [_part(services, principal, f"adapters[{index}]", part, user) for index, part in enumerate(adapters)]
    versions = tuple(part.digest for part in parts)
    if len(set(versions)) < len(versions):
        raise invalid("adapters", "adapters names the same version twice; add up its weights instead.")
    digest = mix_digest([MixPart(part.digest, entry.weight) for part, entry in zip(parts, adapters, strict=True)])
    if digest not in versions:
        _check_summable(services, parts)
    return ResolvedModel(model, parts[0].name if digest in versions else MIX_LABEL, digest, versions)


def _resolve(services: Services, principal: Principal, model: str, user: str | None) -> Resolved | None:
    resolved = services.registry.resolve(model, user)
    return resolved if resolved is not None and principal.may_use(resolved.name, resolved.owner) else None


def _part(services: Services, principal: Principal, place: str, part: AdapterWeight, user: str | None) -> Resolved:
    resolved = _resolve(services, principal, part.name, user)
    if resolved is None:
        raise model_not_found(part.name, f"{place}.name")
    if not math.isfinite(part.weight) or part.weight == 0 or abs(part.weight) > MAX_MIX_WEIGHT:
        raise invalid(
            f"{place}.weight", f"{place}.weight must be from -{MAX_MIX_WEIGHT:g} to {MAX_MIX_WEIGHT:g} and not 0."
        )
    return resolved


def _check_summable(services: Services, parts: Sequence[Resolved]) -> None:
    if dora := next((part.name for part in parts if part.shape.is_dora), None):
        raise invalid("adapters", f"The adapter {dora!r} uses DoRA, which can be neither scaled nor summed.")
    rank, limit = sum(part.shape.rank for part in parts), services.settings.max_lora_rank
    if rank > limit:
        raise invalid("adapters", f"The ranks of adapters add up to {rank}; --max-lora-rank is {limit}.")
