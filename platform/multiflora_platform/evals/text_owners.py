"""Whose text a prompt is: no tenant's goes into evals that another reads. Knows the texts that this server keeps."""

from __future__ import annotations

from multiflora_platform.auth.principals import Principal
from multiflora_platform.evals.checks import EvalCase
from multiflora_platform.evals.sets import Vet
from multiflora_platform.registry.snapshot.snapshot import AdapterEntry
from multiflora_platform.services import Services
from multiflora_platform.web.refusals import Forbidden


def refuse_others_texts(services: Services, principal: Principal, entry: AdapterEntry) -> Vet:
    """Of cases for the adapter's evals, which its owner reads. Admins alone see the texts of several tenants: a tenant
    that asks what another asked has it from nobody. The vet raises Forbidden."""

    def vet(case: EvalCase) -> None:
        if entry.owner is None or not principal.is_admin:
            return
        askers = {tenant for tenant in _askers(services, case) if tenant is not None}
        if askers and entry.owner not in askers:
            raise Forbidden(
                f"The evals of {entry.name!r} are read by {entry.owner!r}, and {case.question[:40]!r} is another "
                "tenant's text: leave it out, or put it into an eval of an adapter that no other tenant owns."
            )

    return vet


def _askers(services: Services, case: EvalCase) -> set[str | None]:
    kept = (services.registry.rollouts.pairs, services.insight.bodies)
    return {tenant for texts in kept if texts is not None for tenant in texts.askers(case.prompt, case.messages)}
