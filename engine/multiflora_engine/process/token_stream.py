"""The deltas of one request as an asynchronous iterator; leaving it is the abort. asyncio, torch-free.

Knows what it was sent; how messages travel is the client's.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from multiflora_engine.protocol.requests import EngineFailure, GenerateRequest, TokenDelta


class Aborter(Protocol):
    """The client, as a stream sees it. All calls are harmless for a request that is not running."""

    def abort(self, request_id: str) -> None: ...
    def end_sequence(self, request_id: str, index: int) -> None: ...
    def abort_later(self, request_id: str) -> None: ...


class TokenStream:
    """The deltas of one request, in order, for all its sequences; ends after each sequence's finish_reason.

    Leaving it early (`aclose`, a cancelled await, or dropping it) aborts the request in the engine. A failure of the
    engine, too, arrives as deltas: one per unfinished sequence, with finish_reason "error".
    """

    def __init__(self, client: Aborter, request: GenerateRequest) -> None:
        self._client = client
        self.request = request
        self._unfinished = set(range(request.params.num_sequences))
        self._deltas: deque[TokenDelta] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        # A delta has come: what the reader has may have been sent on.
        self.has_begun = False

    def __aiter__(self) -> TokenStream:
        return self

    async def __anext__(self) -> TokenDelta:
        if not self._deltas and self._unfinished and not self._closed:
            await self._wait()
        if not self._deltas or self._closed:
            raise StopAsyncIteration
        return self._deltas.popleft()

    async def arrived(self) -> list[TokenDelta]:
        """All deltas that are there, waiting for at least one; none at the end."""
        if not self._deltas and self._unfinished and not self._closed:
            await self._wait()
        deltas = [] if self._closed else list(self._deltas)
        self._deltas.clear()
        return deltas

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._waiter = None

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        """Ends the stream; aborts the request unless it has finished. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._unfinished:
            self._client.abort(self.request.id)
        self._wake()

    def end(self, index: int) -> None:
        """The reader has all it wants of one sequence: the engine ends it, the others go on. Idempotent."""
        if index not in self._unfinished or self._closed:
            return
        self._unfinished.discard(index)
        if self._unfinished:
            self._client.end_sequence(self.request.id, index)
        else:
            self._client.abort(self.request.id)

    def cut(self) -> None:
        """Another one than the reader ends the request: its sequences end with finish_reason "abort"."""
        if self._unfinished and not self._closed:
            self._client.abort(self.request.id)
            for index in sorted(self._unfinished):
                self.push(TokenDelta(request_id=self.request.id, index=index, finish_reason="abort"))

    def __del__(self) -> None:
        if not self._closed and self._unfinished:
            self._client.abort_later(self.request.id)

    def moved_to(self, client: Aborter) -> None:
        """Another engine has the request from now on; of the one before nothing has come."""
        assert not self.has_begun, "its reader has something already"
        self._client = client

    @property
    def is_closed(self) -> bool:
        """Whether its reader has left it."""
        return self._closed

    @property
    def has_failed(self) -> bool:
        """Whether the next that its reader gets of a sequence is the engine's failure."""
        return bool(self._deltas) and self._deltas[0].failure is not None

    def push(self, delta: TokenDelta) -> bool:
        """True when this was the last one. A second delta of the same step costs no second wake-up."""
        self._deltas.append(delta)
        self.has_begun = True
        if delta.finish_reason is not None:
            self._unfinished.discard(delta.index)
        self._wake()
        return not self._unfinished

    def fail(self, failure: EngineFailure) -> None:
        for index in sorted(self._unfinished):
            self.push(TokenDelta(request_id=self.request.id, index=index, finish_reason="error", failure=failure))

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
