"""/ui/session: sign in with a key, see the key's role, sign out. The cookie is HttpOnly and SameSite=Strict."""

from __future__ import annotations

from typing import Any, cast

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from multiflora_platform.auth.credentials import require_own_page, require_same_origin, session_of
from multiflora_platform.auth.dependencies import keys_of
from multiflora_platform.auth.keys import OPEN_PRINCIPAL
from multiflora_platform.auth.principals import Principal
from multiflora_platform.auth.sessions import LIFETIME_SECONDS, Session
from multiflora_platform.services import Services
from multiflora_platform.web.json_bodies import Body, read_json
from multiflora_platform.web.refusals import Forbidden, Unauthenticated

router = APIRouter(include_in_schema=False)


class SignIn(Body, frozen=True):
    key: str


@router.get("/ui/session")
async def who(request: Request) -> Response:
    """`signed_in` false rather than an error: a page asks this first of all."""
    session = session_of(request, keys_of(request))
    if session is None and keys_of(request).authenticate(None) == OPEN_PRINCIPAL:
        return JSONResponse(_shown(request, OPEN_PRINCIPAL, None), headers={"Cache-Control": "no-store"})
    shown = _shown(request, session.principal, session) if session else {"signed_in": False}
    return JSONResponse(shown, headers={"Cache-Control": "no-store"})


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
    response = JSONResponse(_shown(request, principal, session), headers={"Cache-Control": "no-store"})
    secure = request.url.scheme == "https"
    response.set_cookie(keys.sessions.cookie, cookie, LIFETIME_SECONDS, httponly=True, samesite="strict", secure=secure)
    return response


@router.delete("/ui/session", status_code=204)
async def sign_out(request: Request) -> Response:
    """The session ends here and in the browser; without one there is nothing to do."""
    keys = keys_of(request)
    session = session_of(request, keys)
    response = Response(status_code=204)
    if session is not None:
        require_own_page(request, session)
        keys.sessions.close(request.cookies[keys.sessions.cookie])
        response.delete_cookie(keys.sessions.cookie, httponly=True, samesite="strict")
    return response


def _shown(request: Request, principal: Principal, session: Session | None) -> dict[str, Any]:
    """session None: the server needs no key, so there is nothing to sign in with."""
    services = cast(Services, request.app.state.services)
    return {
        "signed_in": True,
        "open": session is None,
        "role": principal.role,
        "tenant": principal.tenant,
        "key_id": principal.key_id,
        "scopes": None if principal.scopes is None else sorted(principal.scopes),
        "csrf": session.csrf if session else "",
        "expires_at": session.expires_at if session else None,
        "base_model": services.model.name,
        "max_model_len": services.max_model_len,
        "version": request.app.version,
        "replicas": sum(len(group.engine.replicas) for group in services.groups) if principal.is_admin else None,
    }
