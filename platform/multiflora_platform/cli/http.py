"""The command line's way to a running server: requests, lists, streams of events and answers. Errors become exit
codes."""

from __future__ import annotations

import argparse
import functools
import json
import os
import ssl
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx

from multiflora_platform.exit_codes import CommandError, ExitCode

DEFAULT_URL = "http://127.0.0.1:8000"
_UPLOAD_SECONDS = 600.0
"""The server answers some requests, such as large uploads, only when all is done."""


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", default=os.environ.get("MULTIFLORA_URL", DEFAULT_URL), help="the server")
    parser.add_argument("--api-key", default=_first_key(os.environ), help="an admin key")
    parser.add_argument("--log-level", default="info", help="debug shows tracebacks")


def _first_key(environ: Mapping[str, str]) -> str | None:
    """The server takes several keys from the same variable; the command line sends the first."""
    return next(iter(environ.get("MULTIFLORA_API_KEY", "").replace(",", " ").split()), None)


def request(arguments: argparse.Namespace, method: str, path: str, **options: Any) -> httpx.Response:
    """One call to `/api/v1{path}`. Raises CommandError with the server's own words."""
    return call(arguments, method, f"/api/v1{path}", **options)


def models(arguments: argparse.Namespace) -> list[str]:
    """What the server serves, the base model first. Raises CommandError."""
    return [card["id"] for card in call(arguments, "GET", "/v1/models").json()["data"]]


def call(
    arguments: argparse.Namespace, method: str, path: str, timeout: float = _UPLOAD_SECONDS, **options: Any
) -> httpx.Response:
    """One call to any path of the server. timeout: seconds that it may be silent. Raises CommandError."""
    headers = {**_authorization(arguments), **options.pop("headers", {})}
    try:
        response = httpx.request(
            method, _url(arguments, path), headers=headers, timeout=timeout, verify=_certificates(), **options
        )
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise _unreachable(arguments, error) from None
    if response.is_error:
        raise _problem(arguments, response)
    return response


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Made once: to read them takes longer than a small request."""
    return httpx.create_ssl_context()


def every(arguments: argparse.Namespace, path: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All items of a list, page by page."""
    token: str | None = None
    while True:
        page = {"limit": 1000, **({"page_token": token} if token else {})}
        answer = request(arguments, "GET", path, params={**params, **page}).json()
        yield from answer["items"]
        if not (token := answer["next_page_token"]):
            return


def server_events(arguments: argparse.Namespace, path: str, after: int | None = None) -> Iterator[Any]:
    """The data of server-sent events as they come, until the server ends them. after: the last id that is known."""
    headers = {"Accept": "text/event-stream"}
    if after is not None:
        headers["Last-Event-ID"] = str(after)
    for data in _stream(arguments, "GET", f"/api/v1{path}", headers):
        yield json.loads(data)


def stream_answer(arguments: argparse.Namespace, path: str, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The chunks of a generation as they come. path: of /v1. Raises CommandError, also for an error frame."""
    for data in _stream(arguments, "POST", path, {}, json={**body, "stream": True}):
        if data == "[DONE]":
            return
        chunk = json.loads(data)
        if "error" in chunk:
            raise CommandError(chunk["error"]["message"])
        yield chunk
    raise CommandError("the answer broke off; the server's log says why")


def _stream(
    arguments: argparse.Namespace, method: str, path: str, headers: Mapping[str, str], **options: Any
) -> Iterator[str]:
    """The data of server-sent events."""
    headers = {**_authorization(arguments), **headers}
    patience = httpx.Timeout(10.0, read=None)
    try:
        with httpx.stream(method, _url(arguments, path), headers=headers, timeout=patience, **options) as response:
            if response.is_error:
                response.read()
                raise _problem(arguments, response)
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield line[6:]
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise _unreachable(arguments, error) from None


def quoted(part: str) -> str:
    """One part of a path."""
    return quote(part, safe="")


def _authorization(arguments: argparse.Namespace) -> dict[str, str]:
    return {"Authorization": f"Bearer {arguments.api_key}"} if arguments.api_key else {}


def _url(arguments: argparse.Namespace, path: str) -> str:
    """vLLM's clients give the address with /v1 behind it."""
    server = arguments.url.rstrip("/").removesuffix("/v1")
    return f"{server}{path}"


def _unreachable(arguments: argparse.Namespace, error: Exception) -> CommandError:
    if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
        message = f"{arguments.url} is no server's address; give --url or MULTIFLORA_URL as in {DEFAULT_URL}"
        return CommandError(message, ExitCode.UNREACHABLE)
    message = f"cannot reach {arguments.url}: {error}; is `multiflora serve` running? --url names another server"
    return CommandError(message, ExitCode.UNREACHABLE)


def _unknown_key(arguments: argparse.Namespace) -> str:
    if arguments.api_key:
        cause = "the server does not accept this key: it is mistyped, expired, revoked or another server's"
    else:
        cause = "the server wants a key"
    return f"{cause}; give --api-key or set MULTIFLORA_API_KEY"


def _problem(arguments: argparse.Namespace, response: httpx.Response) -> CommandError:
    try:
        problem = response.json()
    except ValueError:
        return CommandError(f"the server answered {response.status_code}: {response.text[:200]}")
    told = problem.get("error")  # /v1 and /api/v1 have an envelope of their own each
    said = told.get("message") if isinstance(told, dict) else None
    detail = problem.get("detail") or said or problem.get("title") or str(problem)
    slug = str(problem.get("type", "")).rsplit(":", 1)[-1]
    if response.status_code == 401:
        return CommandError(_unknown_key(arguments), slug=slug)
    rows = [row for row in problem.get("rows", ()) if row.get("severity") == "error"]
    if response.status_code == 422 and rows:
        first = rows[0]
        sentences = " ".join(filter(None, (first["message"], first.get("hint"))))
        return CommandError(f"rejected: {first['check']}: {sentences}", ExitCode.REJECTED)
    return CommandError(detail, slug=slug)
