"""Whose turn it is among the owners of one priority: a flood of one owner's requests does not delay another's.

Start-time fair queueing (Goyal, Vin, Cheng, SIGCOMM 1996) with sequences as the unit: an owner's next sequence comes
one turn after its last that waits, or now if none does. Knows neither sequences nor queues.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Backlog:
    """What one owner has waiting in one priority. next: the turn that its next sequence gets at the earliest."""

    waiting: int = 0
    next: int = 0


class FairQueue:
    """Turns are numbers, of which the smaller is served first. Those of a single owner follow its order of arrival."""

    def __init__(self) -> None:
        self._now = 0
        self._backlogs: dict[tuple[int, str], _Backlog] = {}

    def enqueue(self, priority: int, owner: str) -> int:
        """The turn of a sequence that begins to wait; `began` or `gave_up` ends that."""
        backlog = self._backlogs.setdefault((priority, owner), _Backlog())
        turn = max(self._now, backlog.next)
        backlog.waiting += 1
        backlog.next = turn + 1
        return turn

    def start(self, priority: int, owner: str, turn: int) -> None:
        """The sequence has started: who comes only now does not come before it."""
        self._now = max(self._now, turn)
        self.cancel(priority, owner)

    def cancel(self, priority: int, owner: str) -> None:
        """A sequence waits no more. What an owner took back does not count against it."""
        backlog = self._backlogs[priority, owner]
        backlog.waiting -= 1
        if not backlog.waiting:
            del self._backlogs[priority, owner]
