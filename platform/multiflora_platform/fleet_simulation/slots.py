"""Where a simulated engine's adapters are: as the engine has them, without weights."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable


class Slots:
    """load: told of an adapter that begins its way to a slot, and where it was ("cpu" or "disk"); `loaded` is to
    follow. moved: told where an adapter is now ("slot" or "cpu")."""

    def __init__(self, capacity: int, load: Callable[[str, str], None], moved: Callable[[str, str], None]) -> None:
        self._capacity = capacity
        self._load = load
        self._moved = moved
        # The one that was taken least recently stands first.
        self._held: OrderedDict[str, None] = OrderedDict()
        self._on_their_way: set[str] = set()
        self._were_here: set[str] = set()
        self._running: Counter[str] = Counter()

    def take(self, digest: str) -> bool:
        """A sequence wants to start with it; False: not yet, it is on its way, or no slot is free."""
        if digest not in self._held:
            if digest not in self._on_their_way and self._make_room():
                self._on_their_way.add(digest)
                self._load(digest, "cpu" if digest in self._were_here else "disk")
            return False
        self._held.move_to_end(digest)
        self._running[digest] += 1
        return True

    def give_back(self, digest: str) -> None:
        """The sequence has ended, or did not start after all."""
        self._running[digest] -= 1

    def loaded(self, digest: str) -> None:
        self._on_their_way.remove(digest)
        self._were_here.add(digest)
        self._held[digest] = None
        self._moved(digest, "slot")

    def _make_room(self) -> bool:
        if len(self._held) + len(self._on_their_way) < self._capacity:
            return True
        idle = next((digest for digest in self._held if not self._running[digest]), None)
        if idle is None:
            return False
        del self._held[idle]
        self._moved(idle, "cpu")
        return True
