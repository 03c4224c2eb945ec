"""Requests of the server's own work (batches, evals) through the gateway's routes, without a connection: the same
checks, the same answers, behind every request that a client waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from multiflora_platform.auth.principals import Principal
from multiflora_platform.engine import EngineHandle
from multiflora_platform.gateway.routes.chat import chat_completions
from multiflora_platform.gateway.routes.completions import completions
from multiflora_platform.gateway.routes.embeddings import embeddings
from multiflora_platform.gateway.routes.responses import create_response
from multiflora_platform.web.error_responses import render_error

Route = Callable[[Request, Principal], Awaitable[Response]]
ENDPOINTS: dict[str, Route] = {
    "/v1/chat/completions": chat_completions,
    "/v1/completions": completions,
    "/v1/embeddings": embeddings,
    "/v1/responses": create_response,
}
# Behind everything that does not ask for a later turn itself.
PRIORITY = 1000
_RETRIED = (429, 503)
_RETRY_SECONDS = 1.0
# A budget that is used up for weeks may be raised meanwhile.
_LONGEST_PAUSE = 60.0
# In a row, in about two minutes.
_MOST_FAILED_LOADS = 8


async def answer(app: FastAPI, principal: Principal, url: str, body: dict[str, Any]) -> Response:
    """Whatever the route answers, errors included. Cancelling aborts what the engine computes for it."""
    request = Request(_scope(app, url), _receive(msgspec.json.encode(_later(body))))
    request.state.principal = principal
    request.state.is_background = True
    try:
        return await ENDPOINTS[url](request, principal)
    except Exception as error:
        return render_error(request.scope, error)


async def persistently(ask: Callable[[], Awaitable[Response]]) -> Response:
    """Until there is an answer: a full queue, a spent limit or budget and an engine that restarts are waited out. That
    an adapter cannot be loaded is the answer, where it stays so for some minutes."""
    failed_loads = 0
    while True:
        response = await ask()
        if response.status_code not in _RETRIED:
            return response
        failed_loads = failed_loads + 1 if _is_failed_load(response) else 0
        if failed_loads == _MOST_FAILED_LOADS:
            return response
        pause = float(response.headers.get("retry-after", _RETRY_SECONDS)) * 2 ** max(0, failed_loads - 1)
        await asyncio.sleep(min(pause, _LONGEST_PAUSE))


class BackgroundTurns:
    """All of the server's own requests, in turn: `width` of them at once, half of what the engine runs, so that the
    other half is free for those who wait. One that has to wait for its tenant's limits, for an adapter or for an engine
    leaves its turn to others."""

    def __init__(self, app: FastAPI, engine: EngineHandle) -> None:
        self._app = app
        self._engine = engine
        self._turns = asyncio.Semaphore(0)
        self._size = 0

    @property
    def width(self) -> int:
        """Asked each time: an engine that is starting does not know it yet."""
        ready = self._engine.ready
        return 1 if ready is None else max(1, ready.max_num_seqs // 2)

    async def answer(self, principal: Principal, url: str, body: dict[str, Any]) -> Response:
        """As `persistently`."""
        return await persistently(lambda: self._attempt(principal, url, body))

    async def _attempt(self, principal: Principal, url: str, body: dict[str, Any]) -> Response:
        while self._size < self.width:
            self._size += 1
            self._turns.release()
        async with self._turns:
            return await answer(self._app, principal, url, body)


def _is_failed_load(response: Response) -> bool:
    return b'"adapter_unavailable"' in response.body


def _later(body: dict[str, Any]) -> dict[str, Any]:
    priority = body.get("priority")
    if isinstance(priority, int) and priority >= PRIORITY:
        return body
    return {**body, "priority": PRIORITY}


def _scope(app: FastAPI, url: str) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "path": url,
        "query_string": b"",
        "headers": [],
        "app": app,
        "state": {},
    }


def _receive(content: bytes) -> Callable[[], Awaitable[Message]]:
    """The body, then silence: there is no client that hangs up."""
    messages = [{"type": "http.request", "body": content, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError("the event is never set")

    return receive
