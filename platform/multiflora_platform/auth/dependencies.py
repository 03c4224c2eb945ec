"""Each route declares who may use it, by one of these dependencies; what declares nothing is found by a test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

from fastapi import Depends, FastAPI, Request

from multiflora_platform.auth.credentials import identify
from multiflora_platform.auth.keys import KeyStore
from multiflora_platform.auth.principals import Principal
from multiflora_platform.auth.scopes import scope_of
from multiflora_platform.web.refusals import Forbidden, Unauthenticated

PUBLIC = (
    "/",
    "/health",
    "/health/live",
    "/health/ready",
    "/ping",
    "/docs",
    "/openapi.json",
)
PUBLIC_PREFIXES = ("/ui",)


async def require_key(request: Request) -> Principal:
    """A valid key, or a session of one, with a scope that covers this route. Raises Unauthenticated or Forbidden."""
    principal = identify(request, request.app.state.services.keys)
    if principal is None:
        raise Unauthenticated
    request.state.principal = principal
    if principal.policy.disabled:
        raise Forbidden("The tenant is disabled.")
    needed = scope_of(request.method, request.url.path)
    if principal.scopes is not None and needed is not None and needed not in principal.scopes:
        raise Forbidden(f"This key's scopes do not include {needed!r}.")
    return principal


async def require_admin(principal: Principal = Depends(require_key)) -> Principal:
    """An admin key. Raises Unauthenticated or Forbidden."""
    if not principal.is_admin:
        raise Forbidden("This needs an admin key.")
    return principal


def routes_without_policy(app: FastAPI) -> list[str]:
    """`METHOD path` of every route that neither requires a key nor is public; a served application has none."""
    return [label for label, path, calls in _walk(app.routes, "", ()) if not calls and not _is_public(path)]


def _is_public(path: str) -> bool:
    return path in PUBLIC or any(path == prefix or path.startswith(prefix + "/") for prefix in PUBLIC_PREFIXES)


def _walk(routes: Sequence[Any], prefix: str, inherited: tuple[Any, ...]) -> Iterator[tuple[str, str, list[Any]]]:
    """(label, path, policies) of each route; newer releases of FastAPI keep included routers as they are."""
    for route in routes:
        context = getattr(route, "include_context", None)
        if context is not None:
            calls = (*inherited, *(depends.dependency for depends in context.dependencies))
            yield from _walk(route.original_router.routes, prefix + context.prefix, calls)
            continue
        path = prefix + getattr(route, "path", "?")
        dependant = getattr(route, "dependant", None)
        calls = (*inherited, *((dependant and (need.call for need in dependant.dependencies)) or ()))
        label = f"{','.join(sorted(getattr(route, 'methods', None) or ())) or 'ANY'} {path}"
        yield label, path, [call for call in calls if call in (require_key, require_admin)]


def keys_of(request: Request) -> KeyStore:
    return cast(KeyStore, request.app.state.services.keys)
