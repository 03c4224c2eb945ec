"""What the engine owes to whom: whose each running request is, and who waits for the answer to a call.

Several gateways may have chosen the same numbers for their calls. Knows no sockets and no scheduler.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from multiflora_engine.process.socket import Peer
from multiflora_engine.protocol.messages import (
    AdapterCommand,
    AdapterResult,
    CacheReply,
    CacheRequest,
    ProfileReply,
    ProfileRequest,
    SlotHistory,
    SlotHistoryRequest,
    Status,
    StatusRequest,
)
from multiflora_engine.protocol.requests import GenerateRequest, TokenDelta

Call = TypeVar("Call", AdapterCommand, CacheRequest, ProfileRequest, SlotHistoryRequest, StatusRequest)
Answer = TypeVar("Answer", AdapterResult, CacheReply, ProfileReply, SlotHistory, Status)


@dataclass(slots=True)
class _Request:
    peer: Peer
    # Indices of sequences whose last delta is still to come.
    unfinished: set[int]


class Owed:
    def __init__(self) -> None:
        self._requests: dict[str, _Request] = {}
        # By the engine's own number: who asked, under which number of his.
        self._calls: dict[int, tuple[Peer, int]] = {}
        self._numbers = itertools.count(1)

    # ---- requests

    def begin(self, peer: Peer, request: GenerateRequest) -> None:
        """Raises ValueError where a request that runs has the id."""
        if request.id in self._requests:
            raise ValueError(f"a request with the id {request.id} is running already")
        self._requests[request.id] = _Request(peer, set(range(request.params.num_sequences)))

    def has(self, peer: Peer, request_id: str) -> bool:
        """Whether it is this peer's and has not ended."""
        request = self._requests.get(request_id)
        return request is not None and request.peer is peer

    def end(self, request_id: str, index: int | None = None) -> None:
        """Of one sequence, or of all, nothing is owed any more."""
        request = self._requests.get(request_id)
        if request is None:
            return
        request.unfinished.discard(index) if index is not None else request.unfinished.clear()
        if not request.unfinished:
            del self._requests[request_id]

    def delivered(self, deltas: Sequence[TokenDelta]) -> dict[Peer, list[TokenDelta]]:
        """To whom each of them goes; of requests that have ended, to no one."""
        parts: dict[Peer, list[TokenDelta]] = {}
        for delta in deltas:
            request = self._requests.get(delta.request_id)
            if request is not None:
                parts.setdefault(request.peer, []).append(delta)
                if delta.finish_reason is not None:
                    self.end(delta.request_id, delta.index)
        return parts

    def forget(self, peer: Peer) -> list[str]:
        """It is gone: the requests that are no one's any more. Answers to its calls go nowhere."""
        left = [id for id, request in self._requests.items() if request.peer is peer]
        for id in left:
            del self._requests[id]
        return left

    # ---- calls

    def call(self, peer: Peer, message: Call) -> Call:
        """The same under a number of the engine's own, for which `answer` is to follow."""
        number = next(self._numbers)
        self._calls[number] = peer, message.call_id
        return msgspec.structs.replace(message, call_id=number)

    def answer(self, answer: Answer) -> tuple[Peer, Answer]:
        """Who asked for it, and the answer under his number."""
        peer, call_id = self._calls.pop(answer.call_id)
        return peer, msgspec.structs.replace(answer, call_id=call_id)
