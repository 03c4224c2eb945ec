"""Answers of a rollout's two versions to the same prompt that differ; only where `--log-bodies` lets texts be kept.

In memory, up to a number of pairs and bytes: the oldest go first, and nothing is written anywhere. Knows no routes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Any

import msgspec

from multiflora_platform.registry.changes.rollout_observations import agreement
from multiflora_platform.registry.schemas.rollouts import RolloutPair
from multiflora_platform.registry.snapshot.snapshot import RolloutEntry
from multiflora_platform.storage.database import Change
from multiflora_platform.storage.tables import EventRow

MOST_PAIRS = 100
MOST_BYTES = 16 << 20
# Of one pair; a longer one would push out all others.
_LARGEST = 256 << 10


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt as people read it and evals ask it; the gateway makes it of a request."""

    tenant: str | None  # whose request it was; None: the admins'
    question: dict[str, Any]  # `messages` or `prompt`, as an eval's case has them
    max_tokens: int
    beyond: list[str]  # the request's fields that shape its answer and that evals do not have
    decode: Callable[[Sequence[int]], str]  # token ids of an answer to its text


# Made when it is kept, which few are.
Asked = Callable[[], AskedPrompt]


class KeptPairs:
    """The newest of each rollout."""

    def __init__(self, most_pairs: int = MOST_PAIRS, most_bytes: int = MOST_BYTES) -> None:
        """most_pairs: of one rollout. most_bytes: of all."""
        self._most_pairs = most_pairs
        self._most_bytes = most_bytes
        # By rollout, oldest first, each with its bytes; ids only grow.
        self._kept: dict[int, deque[tuple[RolloutPair, int]]] = {}
        self._adapters: dict[int, str] = {}
        self._last_id = 0
        self._size = 0

    def add(self, rollout: RolloutEntry, asked: AskedPrompt, stable: Sequence[int], candidate: Sequence[int]) -> None:
        """stable, candidate: token ids of the answers. Kept if their texts differ, are not too long, and are not kept
        already: a prompt that is asked again and again is one pair."""
        texts = asked.decode(stable), asked.decode(candidate)
        pair = RolloutPair(
            id=self._last_id + 1,
            at=datetime.now(UTC).isoformat(),
            tenant=asked.tenant,
            messages=asked.question.get("messages"),
            prompt=asked.question.get("prompt"),
            max_tokens=asked.max_tokens,
            beyond=asked.beyond,
            stable=texts[0],
            candidate=texts[1],
            agreement=agreement(stable, candidate),
        )
        size = len(msgspec.json.encode(pair))
        known = (msgspec.structs.replace(one, id=pair.id, at=pair.at) for one, _ in self._kept.get(rollout.id, ()))
        if texts[0] == texts[1] or size > _LARGEST or pair in known:
            return
        self._last_id = pair.id
        self._adapters[rollout.id] = rollout.adapter
        self._kept.setdefault(rollout.id, deque()).append((pair, size))
        self._size += size
        while len(self._kept[rollout.id]) > self._most_pairs:
            self._drop_oldest(rollout.id)
        while self._size > self._most_bytes:
            self._drop_oldest(min(self._kept, key=lambda id: self._kept[id][0][0].id))

    def page(self, rollout: int, tenant: str | None, before: int, limit: int) -> list[RolloutPair]:
        """The newest first, with ids below `before`. tenant: whose; None: everybody's."""
        newest = (pair for pair, _ in reversed(self._kept.get(rollout, ())))
        wanted = (pair for pair in newest if pair.id < before and (tenant is None or pair.tenant == tenant))
        return list(islice(wanted, limit))

    def askers(self, prompt: str | None, messages: Any) -> set[str | None]:
        """The tenants whose requests, of those that are kept, asked this; None: the admins."""
        pairs = (pair for kept in self._kept.values() for pair, _ in kept)
        return {pair.tenant for pair in pairs if (pair.prompt, pair.messages) == (prompt, messages)}

    async def before_commit(self, change: Change) -> None:
        """This process deletes an adapter: its pairs go with the commit."""
        for name in _deleted(change.events):
            change.after_commit.append(partial(self._drop_adapter, name))

    async def follow(self, events: Sequence[EventRow]) -> None:
        """Another process deleted one."""
        for name in _deleted(events):
            self._drop_adapter(name)

    def _drop_adapter(self, name: str) -> None:
        for rollout in [id for id, adapter in self._adapters.items() if adapter == name]:
            while rollout in self._kept:
                self._drop_oldest(rollout)

    def _drop_oldest(self, rollout: int) -> None:
        _, size = self._kept[rollout].popleft()
        self._size -= size
        if not self._kept[rollout]:
            del self._kept[rollout], self._adapters[rollout]


def _deleted(events: Sequence[EventRow]) -> list[str]:
    return [event.adapter for event in events if event.type == "adapter.deleted" and event.adapter is not None]
