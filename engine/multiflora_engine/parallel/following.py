"""A rank that is not the first: does what the first one tells it, in order. Knows no requests and samples nothing."""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.connection import Connection

import torch

from multiflora_adapters.slots import SlotPool, SlotUpload
from multiflora_engine.execution.device_side import DeviceSide
from multiflora_engine.execution.executor import BegunStep
from multiflora_engine.parallel.messages import (
    AttachAdapter,
    CopyAdapter,
    FinishStep,
    FollowTokens,
    ForgetAdapter,
    PlaceAdapter,
    RemoveAdapter,
    RunDummy,
    RunStep,
    StartRank,
    ToRank,
    decoder,
)
from multiflora_engine.parallel.shared_copies import CopyFollower
from multiflora_engine.parallel.shared_loads import LoadFollower

_ALL_BYTES = 1 << 62
_to_rank = decoder(ToRank)


class FollowingRank:
    """adapters: in this rank's host memory, by the number of their load."""

    def __init__(
        self, side: DeviceSide, pool: SlotPool, adapters: LoadFollower, copies: CopyFollower | None = None
    ) -> None:
        """copies: None where none are kept of KV blocks."""
        self._executor = side.executor
        self._dummy = side.dummy
        self._pool = pool
        self._adapters = adapters
        self._copies = copies
        self._uploads: dict[int, SlotUpload] = {}
        self._begun: deque[BegunStep] = deque()

    @torch.inference_mode()
    def run(self, line: Connection) -> None:
        """Until the first rank closes the line."""
        while True:
            try:
                content = line.recv_bytes()
            except (EOFError, OSError):
                return
            self._handle(_to_rank.decode(content))

    def close(self) -> None:
        """Copies of KV blocks that wait to be made are, as far as two seconds reach."""
        if self._copies is not None:
            self._copies.close()

    def _handle(self, message: ToRank) -> None:
        match message:
            case RunStep(arrays):
                with self._computing():
                    self._begun.append(self._executor.begin(arrays))
            case FinishStep():
                with self._computing():
                    self._executor.finish(self._begun.popleft())
            case FollowTokens(count):
                self._executor.feedback.follow(count)
            case RunDummy(slots, tokens):
                self._dummy.logits(slots, tokens)
            case PlaceAdapter(serial, slot, at_end):
                upload = self._pool.begin(self._adapters.held[serial], at_end=at_end)
                assert upload is not None, "all ranks' pools have the same rows"
                assert upload.slot == slot, "and the same slots"
                self._uploads[slot] = upload
            case CopyAdapter(slot, max_bytes):
                self._uploads[slot].step(max_bytes)
            case AttachAdapter(slot):
                upload = self._uploads.pop(slot)
                while not upload.step(_ALL_BYTES)[1]:
                    pass
            case RemoveAdapter(slot):
                self._uploads.pop(slot, None)
                self._pool.remove(slot)
            case ForgetAdapter(serial):
                self._adapters.held.pop(serial, None)
            case StartRank():
                raise AssertionError("a rank is started once")
            case _:
                assert self._copies is not None, "all ranks keep copies, or none"
                self._copies.follow(message)

    def _computing(self) -> AbstractContextManager[None]:
        return nullcontext() if self._copies is None else self._copies.computing()
