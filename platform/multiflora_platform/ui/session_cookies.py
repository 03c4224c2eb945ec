"""The cookies of the UI's sign-in: the session, the provider's token for its end, and why the last sign-in failed."""

from __future__ import annotations

import time

from fastapi import Request
from fastapi.responses import Response

from multiflora_platform.auth.dependencies import keys_of
from multiflora_platform.auth.sessions import Session
from multiflora_platform.settings import Settings

_PATH = "/ui/session"
_PURPOSE = "sign-in-refusal"
_REFUSAL_SECONDS = 120
# Browsers keep no larger cookie.
_LARGEST = 3800


def site_of(request: Request) -> str:
    """This server as browsers see it, without a slash at the end."""
    settings: Settings = request.app.state.services.settings
    return settings.public_url or f"{request.url.scheme}://{request.url.netloc}"


def is_secure(request: Request) -> bool:
    return site_of(request).startswith("https:")


def set_session(request: Request, response: Response, value: str, session: Session) -> None:
    name, seconds = keys_of(request).sessions.cookie, _left(session)
    response.set_cookie(name, value, seconds, httponly=True, samesite="strict", secure=is_secure(request))


def keep_id_token(request: Request, response: Response, id_token: str, session: Session) -> None:
    """The browser's own copy, for the session's end alone; one that is too large is left out, and the provider asks."""
    if len(id_token) <= _LARGEST:
        _set(request, response, "id_token", id_token, _left(session))


def id_token_of(request: Request) -> str | None:
    return request.cookies.get(_name(request, "id_token"))


def end_session(request: Request, response: Response) -> None:
    response.delete_cookie(keys_of(request).sessions.cookie, httponly=True, samesite="strict")
    response.delete_cookie(_name(request, "id_token"), path=_PATH, httponly=True, samesite="strict")


def leave_refusal(request: Request, response: Response, sentence: str) -> None:
    """Signed, so that nobody else can put words into the sign-in page."""
    _set(request, response, "refusal", keys_of(request).secret.sealed(_PURPOSE, sentence.encode()), _REFUSAL_SECONDS)


def forget_refusal(request: Request, response: Response) -> None:
    """It is told once."""
    if (name := _name(request, "refusal")) in request.cookies:
        response.delete_cookie(name, path=_PATH, httponly=True, samesite="strict")


def refusal_of(request: Request) -> str | None:
    found = keys_of(request).secret.unsealed(_PURPOSE, request.cookies.get(_name(request, "refusal"), ""))
    return None if found is None else found.decode()


def _left(session: Session) -> int:
    return max(1, session.expires_at - int(time.time()))


def _set(request: Request, response: Response, kind: str, value: str, seconds: int) -> None:
    response.set_cookie(
        _name(request, kind),
        value,
        seconds,
        path=_PATH,
        httponly=True,
        samesite="strict",
        secure=is_secure(request),
    )


def _name(request: Request, kind: str) -> str:
    return f"{keys_of(request).sessions.cookie}_{kind}"
