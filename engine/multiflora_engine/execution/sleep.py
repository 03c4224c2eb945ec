"""Weights out of the device's memory, and back under the same tensors. Knows no engine: none may compute meanwhile."""

from __future__ import annotations

from collections.abc import Iterable

import torch


class SleepingWeights:
    """While it lives and until `wake`, the tensors have no memory; views of one storage move together."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        """Copies them to the host, and gives their memory back to the device."""
        self._held: list[tuple[torch.UntypedStorage, torch.UntypedStorage]] = []
        for storage in {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in tensors}.values():
            held = torch.UntypedStorage(storage.nbytes())  # type: ignore[no-untyped-call]
            held.copy_(storage)
            storage.resize_(0)
            self._held.append((storage, held))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def num_bytes(self) -> int:
        return sum(held.nbytes() for _, held in self._held)

    def wake(self) -> None:
        """The device's memory may be another than before: what knows its addresses, as captured graphs do, is stale."""
        for storage, held in self._held:
            storage.resize_(held.nbytes())
            storage.copy_(held)
        self._held.clear()
