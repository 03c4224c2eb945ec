"""How the client talks to a server: one request, one typed answer, and problems as exceptions. Knows no operations."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast
from urllib.parse import quote

import msgspec

from multiflora_platform.registry.schemas.answers import EventView, Version

if TYPE_CHECKING:
    # Two thirds of what the import of this package would take, for its command line: loaded when a client is made.
    import httpx

A = TypeVar("A")
DEFAULT_URL = "http://127.0.0.1:8000"
_PREFIX = "/api/v1"
_PATIENCE = (30.0, 600.0, 600.0, 30.0)
"""Seconds to connect, between two reads, between two writes, and for a connection of the pool."""
Files = Mapping[str, Path | bytes]


class ApiProblem(Exception):
    """The server's refusal. type: stable, `urn:multiflora:problem:…`. document: all of it, with `errors` and `rows`."""

    def __init__(self, status: int, document: Mapping[str, Any], retry_after: float | None) -> None:
        self.status = status
        self.document = document
        self.type = str(document.get("type", ""))
        self.title = str(document.get("title", ""))
        self.detail = str(document.get("detail", ""))
        self.retry_after = retry_after
        super().__init__(f"{status}: {self.detail or self.title}")


class Page(Protocol):
    """What list operations answer."""

    @property
    def items(self) -> Sequence[Any]: ...
    @property
    def next_page_token(self) -> str | None: ...


def quoted(part: object) -> str:
    """One part of a path."""
    return quote(str(part), safe="")


class _Base:
    def __init__(self, url: str | None, api_key: str | None) -> None:
        self.url = (url or os.environ.get("MULTIFLORA_URL") or DEFAULT_URL).rstrip("/")
        key = api_key or os.environ.get("MULTIFLORA_API_KEY", "").replace(",", " ").partition(" ")[0]
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def _options(
        self, query: Mapping[str, Any] | None, headers: Mapping[str, Any] | None, body: msgspec.Struct | None
    ) -> dict[str, Any]:
        sent = {name: str(value) for name, value in (headers or {}).items() if value is not None}
        options: dict[str, Any] = {"headers": sent, "params": dict(_query(query or {}))}
        if body is not None:
            sent["Content-Type"] = "application/json"
            options["content"] = msgspec.json.encode(body)
        return options


class Transport(_Base):
    """url and api_key: by default MULTIFLORA_URL and MULTIFLORA_API_KEY. Use as a context manager, or `close` it."""

    def __init__(
        self, url: str | None = None, api_key: str | None = None, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        import httpx

        super().__init__(url, api_key)
        self._http = httpx.Client(base_url=self.url, headers=self._headers, timeout=_PATIENCE, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        answer: type[A] | None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, Any] | None = None,
        body: msgspec.Struct | None = None,
    ) -> A:
        """path: below /api/v1. Raises ApiProblem."""
        response = self._http.request(method, _PREFIX + path, **self._options(query, headers, body))
        return _decoded(response, answer)

    def upload(self, name: str, files: Files, *, promote: bool = False, idempotency_key: str | None = None) -> Version:
        """A version from an adapter's two files by name, or from one archive. Raises ApiProblem, 422 when rejected."""
        with ExitStack() as stack:
            response = self._http.post(
                f"{_PREFIX}/adapters/{quoted(name)}/versions",
                files=[("files", (file, _opened(stack, content))) for file, content in files.items()],
                params={"promote": promote},
                headers={"Idempotency-Key": idempotency_key} if idempotency_key else {},
            )
        return _decoded(response, Version)

    def follow_events(self, after: int = 0) -> Iterator[EventView]:
        """Events with larger ids as they happen, until the server ends; go on with the last one's id."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        with self._http.stream("GET", _PREFIX + "/events", headers=headers) as response:
            if response.is_error:
                response.read()
                raise _problem(response)
            for line in response.iter_lines():
                if line.startswith("data: "):
                    yield msgspec.json.decode(line[6:], type=EventView)

    def every(self, operation: Callable[..., Page], *arguments: Any, **options: Any) -> Iterator[Any]:
        """All items of a list operation: `client.every(client.list_adapters, tag="sql")`."""
        token: str | None = None
        while True:
            page = operation(*arguments, **options, **({"page_token": token} if token else {}))
            yield from page.items
            if not (token := page.next_page_token):
                return


class AsyncTransport(_Base):
    """As Transport, for awaiting."""

    def __init__(
        self, url: str | None = None, api_key: str | None = None, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        import httpx

        super().__init__(url, api_key)
        self._http = httpx.AsyncClient(base_url=self.url, headers=self._headers, timeout=_PATIENCE, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def call(
        self,
        method: str,
        path: str,
        answer: type[A] | None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, Any] | None = None,
        body: msgspec.Struct | None = None,
    ) -> A:
        """path: below /api/v1. Raises ApiProblem."""
        response = await self._http.request(method, _PREFIX + path, **self._options(query, headers, body))
        return _decoded(response, answer)

    async def upload(
        self, name: str, files: Files, *, promote: bool = False, idempotency_key: str | None = None
    ) -> Version:
        """A version from an adapter's two files by name, or from one archive. Raises ApiProblem, 422 when rejected."""
        with ExitStack() as stack:
            response = await self._http.post(
                f"{_PREFIX}/adapters/{quoted(name)}/versions",
                files=[("files", (file, _opened(stack, content))) for file, content in files.items()],
                params={"promote": promote},
                headers={"Idempotency-Key": idempotency_key} if idempotency_key else {},
            )
        return _decoded(response, Version)

    async def follow_events(self, after: int = 0) -> AsyncIterator[EventView]:
        """Events with larger ids as they happen, until the server ends; go on with the last one's id."""
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        async with self._http.stream("GET", _PREFIX + "/events", headers=headers) as response:
            if response.is_error:
                await response.aread()
                raise _problem(response)
            async for line in response.aiter_lines():
                if line.startswith("data: "):
                    yield msgspec.json.decode(line[6:], type=EventView)

    async def every(self, operation: Callable[..., Any], *arguments: Any, **options: Any) -> AsyncIterator[Any]:
        """All items of a list operation: `async for adapter in client.every(client.list_adapters)`."""
        token: str | None = None
        while True:
            page: Page = await operation(*arguments, **options, **({"page_token": token} if token else {}))
            for item in page.items:
                yield item
            if not (token := page.next_page_token):
                return


def _query(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Without what was not given; true and false as JSON has them."""
    for name, value in values.items():
        if isinstance(value, bool):
            yield name, str(value).lower()
        elif isinstance(value, (list, tuple)):
            yield name, list(value)
        elif value is not None:
            yield name, str(value)


def _opened(stack: ExitStack, content: Path | bytes) -> Any:
    return content if isinstance(content, bytes) else stack.enter_context(content.open("rb"))


def _decoded(response: httpx.Response, answer: type[A] | None) -> A:
    if response.is_error:
        raise _problem(response)
    return cast(A, None) if answer is None else msgspec.json.decode(response.content, type=answer)


def _problem(response: httpx.Response) -> ApiProblem:
    try:
        document = msgspec.json.decode(response.content, type=dict[str, Any])
    except (msgspec.DecodeError, msgspec.ValidationError):
        document = {"title": response.reason_phrase, "detail": response.text[:500]}
    wait = response.headers.get("retry-after", "")
    return ApiProblem(response.status_code, document, float(wait) if wait.isdecimal() else None)
