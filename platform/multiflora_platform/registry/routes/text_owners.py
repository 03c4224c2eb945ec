"""Whose text a prompt is: no tenant's goes into evals that another reads. Knows the texts that this server keeps."""

from __future__ import annotations

from starlette.requests import Request

from multiflora_platform.auth.principals import Principal
from multiflora_platform.registry.schemas.version_metadata import AskedText, Vet
from multiflora_platform.registry.snapshot.snapshot import AdapterEntry
from multiflora_platform.web.refusals import Forbidden


def refuse_others_texts(request: Request, principal: Principal, entry: AdapterEntry, *, public: bool = False) -> Vet:
    """Of prompts for the adapter's evals, which its owner reads, or admins where it has none; public: and whoever may
    use the adapter. Admins alone see the texts of several tenants: a tenant that asks what another asked has it from
    nobody. The vet raises Forbidden."""

    def vet(asked: AskedText) -> None:
        if not principal.is_admin or (entry.owner is None and not public):
            return
        askers = {tenant for tenant in _askers(request, asked) if tenant is not None}
        if askers and entry.owner not in askers:
            readers = "whoever may use it" if entry.owner is None else repr(entry.owner)
            raise Forbidden(
                f"The evals of {entry.name!r} are read by {readers}, and {_shown(asked)!r} is another tenant's text: "
                "leave it out, or put it into an eval of an adapter that no other tenant owns."
            )

    return vet


def _askers(request: Request, asked: AskedText) -> set[str | None]:
    services = request.app.state.services
    kept = (services.registry.rollouts.pairs, services.insight.bodies)
    return {tenant for texts in kept if texts is not None for tenant in texts.askers(asked.prompt, asked.messages)}


def _shown(asked: AskedText) -> str:
    text = asked.prompt if asked.messages is None else asked.messages[-1].get("content")
    return str(text)[:40]
