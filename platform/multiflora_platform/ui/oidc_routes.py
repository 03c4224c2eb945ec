"""/ui/oidc: to the sign-in provider and back, and what the provider itself tells: which sign-ins are over.

A sign-in ends, as one with a key does, with the session's cookie.

What a browser is sent back to is an address of this UI, or of the provider by its own document; a client names neither.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from multiflora_platform.auth.dependencies import keys_of
from multiflora_platform.auth.oidc.attempts import BACK_CHANNEL, CALLBACK, PATIENCE_SECONDS
from multiflora_platform.auth.oidc.refusals import SignInRefused, ended_meanwhile
from multiflora_platform.auth.sessions import SignInOver
from multiflora_platform.ui.session_cookies import is_secure, keep_id_token, leave_refusal, set_session, site_of
from multiflora_platform.web.json_bodies import read_limited
from multiflora_platform.web.problems import Unavailable

if TYPE_CHECKING:
    from multiflora_platform.auth.oidc.sign_on import SingleSignOn

_log = logging.getLogger(__name__)
router = APIRouter(include_in_schema=False)
_PATH = "/ui/oidc"
_OWN_PAGE = re.compile(r"/ui/(?!oidc)[A-Za-z0-9._~@%/-]*(\?[A-Za-z0-9._~@%/=&+,:-]*)?")
_LONGEST = 1000
_UNSTORED = {"Cache-Control": "no-store"}


@router.get(_PATH)
async def begin(request: Request, back: str = "/ui/") -> Response:
    """back: a page of this UI, to go on there."""
    sign_on = _sign_on(request)
    site = site_of(request)
    try:
        url, attempt = await sign_on.begin(site, _own(back))
    except SignInRefused as refused:
        return _refused(request, refused)
    response = _to(url)
    # Lax: the browser comes back from another site.
    response.set_cookie(
        _attempt(request),
        attempt,
        PATIENCE_SECONDS,
        path=_PATH,
        httponly=True,
        samesite="lax",
        secure=is_secure(request),
    )
    return response


@router.get(CALLBACK)
async def finish(request: Request) -> Response:
    """What the provider sends the browser to."""
    sign_on = _sign_on(request)
    sessions = keys_of(request).sessions
    try:
        cookie = request.cookies.get(_attempt(request), "")
        done = await sign_on.finish(site_of(request), request.query_params, cookie)
        value = await sessions.open_for(done.person, done.ends_at)
    except SignInRefused as refused:
        return _refused(request, refused)
    except SignInOver:
        return _refused(request, ended_meanwhile())
    except Unavailable as error:
        return _refused(request, SignInRefused(f"{error.detail} Nobody was signed in."))
    response = _to(done.back)
    response.delete_cookie(_attempt(request), path=_PATH, httponly=True, samesite="lax")
    session = sessions.find(value)
    if session is not None:
        set_session(request, response, value, session)
        keep_id_token(request, response, done.id_token, session)
    return response


@router.post(BACK_CHANNEL)
async def end(request: Request) -> Response:
    """The provider's own call (OpenID Connect Back-Channel Logout 1.0); its signature is all that lets it in. Raises
    PayloadTooLarge, Unavailable."""
    from multiflora_platform.auth.oidc.logout_tokens import LogoutRefused

    sign_on = _sign_on(request)
    form = parse_qs((await read_limited(request)).decode("ascii", "replace"))
    try:
        ended = await sign_on.ended(form.get("logout_token", [""])[0])
    except LogoutRefused as refused:
        _log.warning("a sign-out that the provider told was refused: %s", refused)
        told = {"error": "invalid_request", "error_description": str(refused)}
        return JSONResponse(told, 400, headers=_UNSTORED)
    await keys_of(request).sessions.end(ended)
    return Response(status_code=200, headers=_UNSTORED)


def _sign_on(request: Request) -> SingleSignOn:
    sign_on: SingleSignOn | None = request.app.state.services.sign_on
    if sign_on is None:
        raise HTTPException(404, "People sign in here with a key; start with --oidc-issuer for another way.")
    return sign_on


def _own(back: str) -> str:
    return back if len(back) <= _LONGEST and _OWN_PAGE.fullmatch(back) and "//" not in back else "/ui/"


def _attempt(request: Request) -> str:
    """The name of the cookie of a sign-in on its way."""
    return f"{keys_of(request).sessions.cookie}_attempt"


def _refused(request: Request, refused: SignInRefused) -> Response:
    """The sign-in page asks for the sentence."""
    response = _to("/ui/")
    response.delete_cookie(_attempt(request), path=_PATH, httponly=True, samesite="lax")
    leave_refusal(request, response, str(refused))
    return response


def _to(url: str) -> Response:
    return RedirectResponse(url, 303, headers={**_UNSTORED, "Referrer-Policy": "no-referrer"})
