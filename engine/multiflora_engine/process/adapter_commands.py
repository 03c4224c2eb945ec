"""Adapter commands from the gateway, answered when they are done, without ever waiting inside the step loop.

Knows what each action means in terms of residency; not how adapters are read or placed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from multiflora_engine.core.adapter_source import AdapterSource, AdapterUnavailable, NoRoomForAdapter
from multiflora_engine.protocol.messages import (
    AdapterCommand,
    AdapterResult,
    EvictionForecast,
    ResidencyReport,
    SlotEvent,
)

_log = logging.getLogger(__name__)


class ManagedAdapters(AdapterSource, Protocol):
    """Residency as administration sees it. Every call returns at once; `state` tells when the work is done."""

    def poll(self) -> None: ...
    def load(self, digest: str) -> None: ...
    def unload(self, digest: str) -> None: ...
    def pin(self, digest: str) -> None: ...
    def unpin(self, digest: str) -> None: ...
    def snapshot(self) -> list[ResidencyReport]: ...
    def take_moves(self) -> dict[str, str]: ...
    def history(self) -> list[SlotEvent]: ...
    def forecast(self) -> list[EvictionForecast]: ...


class AdapterCommands:
    """probe(slot): max |logit difference| to the base. Errors of one command never reach another."""

    def __init__(self, residency: ManagedAdapters, probe: Callable[[int], float]) -> None:
        self._residency = residency
        self._probe = probe
        self._waiting: list[AdapterCommand] = []

    @property
    def has_work(self) -> bool:
        return bool(self._waiting)

    def submit(self, command: AdapterCommand) -> AdapterResult | None:
        """Begins the command; the answer when there is nothing to wait for."""
        return _answered(command, self._begin)

    def advance(self) -> list[AdapterResult]:
        """The answers of the commands that have come to their end since the last call."""
        results, waiting = [], []
        for command in self._waiting:
            result = _answered(command, self._finish)
            if result is None:
                waiting.append(command)
            else:
                results.append(result)
        self._waiting = waiting
        return results

    def _begin(self, command: AdapterCommand) -> AdapterResult | None:
        match command.action:
            case "load" | "probe":
                self._residency.load(command.digest)
            case "pin":
                self._residency.pin(command.digest)
            case "unload":
                self._residency.unload(command.digest)
                return AdapterResult(command.call_id)
            case "unpin":
                self._residency.unpin(command.digest)
                return AdapterResult(command.call_id)
            case action:
                return AdapterResult(command.call_id, error=f"unknown action {action!r}")
        self._waiting.append(command)
        return None

    def _finish(self, command: AdapterCommand) -> AdapterResult | None:
        """Acquiring tells all three outcomes apart: in a slot, not yet, never (AdapterUnavailable)."""
        try:
            slot = self._residency.acquire(command.digest)
        except AdapterUnavailable:
            if command.action == "pin":
                self._residency.unpin(command.digest)  # what was answered with an error must not hold room
            raise
        if slot is None:
            return None
        try:
            distance = self._probe(slot) if command.action == "probe" else None
        finally:
            self._residency.release(command.digest)
        return AdapterResult(command.call_id, logit_distance=distance)


def _answered(command: AdapterCommand, act: Callable[[AdapterCommand], AdapterResult | None]) -> AdapterResult | None:
    """What `act` answers; whatever it raises is the command's own failure."""
    try:
        return act(command)
    except NoRoomForAdapter as error:
        return AdapterResult(command.call_id, error=str(error), is_full=True)
    except AdapterUnavailable as error:
        return AdapterResult(command.call_id, error=str(error))
    except Exception as error:
        _log.exception("%s of adapter %s failed", command.action, command.digest)
        return AdapterResult(command.call_id, error=f"The engine could not do it: {type(error).__name__}.")
