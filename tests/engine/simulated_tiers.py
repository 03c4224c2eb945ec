"""BlockTiers over a simulated device's memory: copies and loads happen when `work` is called, some of them fail."""

import random
from collections import Counter, deque
from collections.abc import Sequence

from multiflora_engine.core.block_tiers import BlockChain, BlockLoad
from multiflora_engine.protocol.messages import TierStats

KV = tuple[int, int] | None


class SimulatedTiers:
    """kv: the device's, one entry for each slot of a block. is_on: else nothing is kept."""

    def __init__(self, kv: list[KV], block_size: int) -> None:
        self.is_on = True
        self.fails = True
        self.is_stuck = False
        self.copies: dict[bytes, list[KV]] = {}
        self.given_up: Counter[int] = Counter()
        self.num_loaded = 0
        self.dropped: list[bytes] = []
        # What sequences that clients wait for started on.
        self.hits: list[bytes] = []
        self._kv = kv
        self._size = block_size
        self._to_keep: deque[tuple[bytes, int, int]] = deque()
        self.loads: deque[BlockLoad] = deque()
        self._finished: list[BlockLoad] = []
        self._chance = random.Random(5)

    def keep(self, chain: BlockChain, numbers: Sequence[int], block_ids: Sequence[int], are_hits: bool) -> None:
        for number, block_id in zip(numbers, block_ids, strict=True):
            self._to_keep.append((chain.hashes[number], block_id, self.given_up[block_id]))
            self.hits += [chain.hashes[number]] * are_hits

    def give_up(self, block_id: int) -> None:
        self.given_up[block_id] += 1

    def holds(self, hash: bytes) -> bool:
        return hash in self.copies

    def count_worth_loading(self, hashes: Sequence[bytes]) -> int:
        return next((place for place, hash in enumerate(hashes) if hash not in self.copies), len(hashes))

    def load(self, hashes: Sequence[bytes], block_ids: Sequence[int], share: float) -> BlockLoad:
        load = BlockLoad(hashes, block_ids, share)
        self.loads.append(load)
        return load

    def finished(self) -> list[BlockLoad]:
        finished, self._finished = self._finished, []
        return finished

    def drop(self, hashes: Sequence[bytes]) -> None:
        self.dropped += hashes
        for hash in hashes:
            self.copies.pop(hash, None)

    def stats(self) -> list[TierStats]:
        return []

    def work(self, most: int = 3) -> None:
        """Loads go first; what was not done is done later."""
        for _ in range(most):
            if self.loads and not self.is_stuck:
                self._load_one(self.loads[0])
            elif self._to_keep:
                self._keep_one(*self._to_keep.popleft())

    def _keep_one(self, hash: bytes, block_id: int, generation: int) -> None:
        if self.is_on and self.given_up[block_id] == generation:
            content = self._kv[block_id * self._size : (block_id + 1) * self._size]
            assert self.copies.setdefault(hash, content) == content, "equal hashes, equal content"

    def _load_one(self, load: BlockLoad) -> None:
        hash = load.hashes[load.num_loaded]
        is_lost = self.fails and self._chance.random() < 0.1
        if is_lost:
            self.copies.pop(hash, None)
        if load.is_wanted and hash in self.copies:
            at = load.block_ids[load.num_loaded] * self._size
            self._kv[at : at + self._size] = self.copies[hash]
            load.num_loaded += 1
            self.num_loaded += 1
        if not load.is_wanted or hash not in self.copies or load.num_loaded == len(load.hashes):
            self._finished.append(self.loads.popleft())
