"""/ui/: the page under every address of the UI, and its files. Public; what they show needs a session."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from multiflora_platform.ui.assets import Asset, bundle
from multiflora_platform.ui.oidc_routes import router as oidc_router
from multiflora_platform.ui.session_routes import router as session_router

router = APIRouter(include_in_schema=False)
router.include_router(session_router)
router.include_router(oidc_router)
_HEADERS = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}
# What a browser heeds of documents alone: half a hundred files are spared it.
_OF_PAGES = {
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "X-Frame-Options": "DENY",
}
_FOR_EVER = "public, max-age=31536000, immutable"


@router.api_route("/", methods=["GET", "HEAD"])
async def root() -> Response:
    """For browsers that were given the server's bare address."""
    return RedirectResponse("/ui/", 307)


@router.get("/ui")
async def without_slash() -> Response:
    return RedirectResponse("/ui/", 308)


@router.api_route("/ui/assets/{digest}/{path:path}", methods=["GET", "HEAD"])
async def asset(request: Request, digest: str, path: str) -> Response:
    """Of this release; a page of an older one learns by the 404 that it has to be loaded again."""
    found = bundle().files.get(path) if bundle().base == f"/ui/assets/{digest}/" else None
    if found is None:
        raise HTTPException(404, f"There is no {request.url.path[:200]}; load the page again.")
    return _answer(request, found, {"Cache-Control": _FOR_EVER})


@router.api_route("/ui/{path:path}", methods=["GET", "HEAD"])
async def page(request: Request, path: str) -> Response:
    """Every other address below /ui/ is one of the UI's own."""
    if path.startswith("assets/"):
        raise HTTPException(404, "Not Found")
    return _answer(request, bundle().page, {**_OF_PAGES, "Content-Security-Policy": bundle().policy})


def _answer(request: Request, asset: Asset, headers: dict[str, str]) -> Response:
    headers = {**_HEADERS, **headers, "ETag": asset.etag, "Vary": "Accept-Encoding"}
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    body = asset.body
    if asset.gzipped is not None and "gzip" in request.headers.get("accept-encoding", ""):
        body, headers["Content-Encoding"] = asset.gzipped, "gzip"
    return Response(body, headers=headers, media_type=asset.media_type)
