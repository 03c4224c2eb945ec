"""What a run asks: decided once, before it is queued, so that an alias that moves meanwhile changes no run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from multiflora_platform.auth.principals import Principal
from multiflora_platform.evals.schemas import EvalRunBody
from multiflora_platform.gateway.generation.model_resolution import ResolvedModel, resolve
from multiflora_platform.gateway.refusals import as_problems
from multiflora_platform.gateway.schemas.requests import EngineRequest
from multiflora_platform.registry.service import Registry
from multiflora_platform.registry.snapshot.snapshot import DEFAULT, AdapterEntry
from multiflora_platform.services import Services
from multiflora_platform.web.problems import InvalidRequest


@dataclass(frozen=True)
class EvalTarget:
    """model, mix: the fields of a request. version: of the adapter that the set belongs to; None: of no version of it.
    digest: None: the base."""

    model: str
    mix: dict[str, Any]
    version: int | None
    digest: str | None


def target_of(services: Services, principal: Principal, entry: AdapterEntry, body: EvalRunBody) -> EvalTarget:
    """entry: the set's adapter. Raises InvalidRequest, AdapterNotFound."""
    if sum(given is not None for given in (body.version, body.model, body.adapters)) > 1:
        raise InvalidRequest("Send one of version, model and adapters: what is asked.", pointer="")
    registry, mix = services.registry, body.mix
    if mix:
        mix["adapters"] = [{**part, "name": _pinned(registry, part["name"])} for part in mix["adapters"]]
        model = _base_of(services, principal, mix["adapters"][0]["name"])
    elif body.version is not None:
        model = f"{entry.name}@{body.version}"
    else:
        model = _pinned(registry, services.groups.known_as(body.model or entry.name))
    resolved = _resolved(services, principal, model, mix)
    is_own = resolved.adapter == entry.name and resolved.number > 0
    return EvalTarget(model, mix, resolved.number if is_own else None, resolved.digest)


def _resolved(services: Services, principal: Principal, model: str, mix: dict[str, Any]) -> ResolvedModel:
    try:
        asked = msgspec.convert({"model": model, **mix}, EngineRequest)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{error}.", pointer="") from None
    with as_problems():
        return resolve(services.registry, services.groups, principal, asked, services.settings.max_lora_rank)


def _base_of(services: Services, principal: Principal, part: str) -> str:
    """The name of the base model that a mix's first part belongs to; of a part that is missing, resolving says so."""
    resolved, groups = services.registry.resolve(part, None), services.groups
    may_use = resolved is not None and principal.may_use(resolved.name, resolved.owner)
    group = groups.of_base(resolved.base_digest) if resolved is not None and may_use else None
    return (group or groups.default).name


def _pinned(registry: Registry, model: str) -> str:
    """`name` and `name@alias` as `name@3`; what is no adapter's stays. Raises InvalidRequest of a split."""
    name, _, alias = model.partition("@")
    entry = registry.snapshot.adapters.get(name)
    target = entry.aliases.get(alias or DEFAULT) if entry is not None else None
    if target is None:
        return model
    if "split" in target.target:
        raise InvalidRequest(f"{model[:80]!r} is split between versions; name one of them.", pointer="/model")
    return f"{name}@{target.target['version']}"
