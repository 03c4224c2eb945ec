"""/ui/session: sign in with a key, see who one is, sign out. The cookie is HttpOnly and SameSite=Strict."""

from __future__ import annotations

from typing import Any, cast

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from multiflora_platform.auth.credentials import require_own_page, require_same_origin, session_of
from multiflora_platform.auth.dependencies import keys_of
from multiflora_platform.auth.keys import OPEN_PRINCIPAL
from multiflora_platform.auth.oidc.refusals import SignInRefused
from multiflora_platform.auth.principals import Principal
from multiflora_platform.auth.sessions import Session
from multiflora_platform.services import Services
from multiflora_platform.ui.session_cookies import (
    end_session,
    forget_refusal,
    id_token_of,
    refusal_of,
    set_session,
    site_of,
)
from multiflora_platform.web.json_bodies import Body, read_json
from multiflora_platform.web.refusals import Forbidden, Unauthenticated

router = APIRouter(include_in_schema=False)
_UNSTORED = {"Cache-Control": "no-store"}


class SignIn(Body, frozen=True):
    key: str


@router.get("/ui/session")
async def who(request: Request) -> Response:
    """`signed_in` false rather than an error: a page asks this first of all."""
    session = session_of(request, keys_of(request))
    if session is None and keys_of(request).authenticate(None) == OPEN_PRINCIPAL:
        return _answer(_shown(request, OPEN_PRINCIPAL, None))
    return _nobody(request) if session is None else _answer(_shown(request, session.principal, session))


@router.post("/ui/session")
async def sign_in(request: Request) -> Response:
    """Raises Unauthenticated, Forbidden."""
    require_same_origin(request)
    keys = keys_of(request)
    signed_in = keys.sign_in((await read_json(request, SignIn)).key)
    if signed_in is None:
        raise Unauthenticated("This key is not valid: it may be mistyped, expired or revoked.")
    principal, cookie = signed_in
    if principal.policy.disabled:
        raise Forbidden("The tenant of this key is disabled.")
    session = keys.sessions.find(cookie)
    assert session is not None, "it was opened for a good key"
    response = _answer(_shown(request, principal, session))
    set_session(request, response, cookie, session)
    return response


@router.delete("/ui/session", status_code=204)
async def sign_out(request: Request) -> Response:
    """The session ends on all servers and in the browser; without one there is nothing to do. `go_to`: where the
    provider that let the person in ends its own."""
    keys = keys_of(request)
    session = session_of(request, keys)
    if session is None:
        return Response(status_code=204)
    require_own_page(request, session)
    await keys.sessions.close(session)
    elsewhere = await _provider_end(request) if session.principal.is_person else None
    response = Response(status_code=204) if elsewhere is None else _answer({"go_to": elsewhere})
    end_session(request, response)
    return response


async def _provider_end(request: Request) -> str | None:
    """None also while the provider is away: the session here is over all the same."""
    sign_on = cast(Services, request.app.state.services).sign_on
    assert sign_on is not None, "people have sessions by it alone"
    try:
        return await sign_on.end(site_of(request), id_token_of(request))
    except SignInRefused:
        return None


def _nobody(request: Request) -> Response:
    """single_sign_on: the provider's name, where people may sign in there. refusal: why that failed just now."""
    sign_on = cast(Services, request.app.state.services).sign_on
    told = {"single_sign_on": sign_on and sign_on.name, "refusal": refusal_of(request)}
    response = _answer({"signed_in": False} | {name: value for name, value in told.items() if value})
    forget_refusal(request, response)
    return response


def _answer(shown: dict[str, Any]) -> Response:
    return JSONResponse(shown, headers=_UNSTORED)


def _shown(request: Request, principal: Principal, session: Session | None) -> dict[str, Any]:
    """session None: the server needs no key, so there is nothing to sign in with."""
    services = cast(Services, request.app.state.services)
    return {
        "signed_in": True,
        "open": session is None,
        "role": principal.role,
        "tenant": principal.tenant,
        "key_id": principal.key_id,
        "person": principal.person,
        "scopes": None if principal.scopes is None else sorted(principal.scopes),
        "csrf": session.csrf if session else "",
        "expires_at": session.expires_at if session else None,
        "base_model": services.model.name,
        "max_model_len": services.max_model_len,
        "max_lora_rank": services.settings.max_lora_rank,
        "version": request.app.version,
        "replicas": sum(len(group.engine.replicas) for group in services.groups) if principal.is_admin else None,
    }
