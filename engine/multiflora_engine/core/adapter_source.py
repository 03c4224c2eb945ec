"""How the scheduler sees adapters: digests that get a device slot now, later, or never. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from multiflora_adapters.kv_reach import KvReach

AdapterState = Literal["slot", "loading", "cpu", "disk", "failed"]


class AdapterUnavailable(Exception):
    """The adapter cannot be loaded; fails the requests that name it and nothing else. The message names the cause."""

    code = "adapter_unavailable"


class MixRefused(AdapterUnavailable):
    """The adapters of a mix cannot be combined: the request asks for what cannot be, whenever it is tried again."""

    code = "invalid_request"


class NoRoomForAdapter(AdapterUnavailable):
    """What is pinned leaves too little room; unpinning helps."""


class AdapterLoading(AdapterUnavailable):
    """It may still come, but this request has waited for it as long as requests do."""

    code = "adapter_loading"


class AdapterSource(Protocol):
    """Implemented by AdapterResidency. No call blocks on disk or on the device."""

    def state(self, digest: str) -> AdapterState: ...

    def want(self, digest: str) -> None:
        """Starts loading from disk to host memory if it is neither there nor on its way. Cheap, idempotent."""
        ...

    def acquire(self, digest: str) -> int | None:
        """The adapter's slot, with one more user that keeps it there; None when not loaded yet or no room now.

        Idle adapters are evicted to make room. Raises AdapterUnavailable.
        """
        ...

    def kv_reach(self, digest: str) -> KvReach:
        """What the KV of an adapter depends on; it is asked for while it is acquired."""
        ...

    def release(self, digest: str) -> None:
        """Ends one use; an adapter without users is idle and may be evicted."""
        ...

    def is_pinned(self, digest: str) -> bool:
        """Whether it stays in its slot even when idle, so that waiting for it to become idle frees nothing."""
        ...

    def pending_placements(self) -> Sequence[str]:
        """Adapters that administration (a pin, a probe) wants in a slot and that have found no room."""
        ...
