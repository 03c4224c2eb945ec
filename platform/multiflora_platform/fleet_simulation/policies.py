"""Policies of routing: those that are served, and those of other routers, which are there to be compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b

from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_platform.engine import Placement
from multiflora_platform.fleet.replica import EngineReplica
from multiflora_platform.fleet.routing import Choice, Router

Clock = Callable[[], float]


class PrefixHashRouter(Router):
    """All that begins alike goes to one replica, whatever waits there."""

    def choose(self, replicas: Sequence[EngineReplica], request: GenerateRequest) -> Choice:
        blocks = next(self.hashes(request, 0), [])
        digest = blake2b(blocks[0] if blocks else request.id.encode(), digest_size=8).digest()
        chosen = replicas[int.from_bytes(digest) % len(replicas)]
        return Choice(chosen, Placement(chosen.id, "turn"))


class LongestPrefixRouter(Router):
    """To the one that has most of the prompt, whatever waits there; of equals, to the one with the fewest requests."""

    def choose(self, replicas: Sequence[EngineReplica], request: GenerateRequest) -> Choice:
        ready = replicas[0].ready
        assert ready is not None, "requests go to replicas that serve"
        keys, found = self._looked_up(replicas, request, ready.block_size)
        chosen = max(replicas, key=lambda one: (found[one.id], -one.client.in_flight))
        return Choice(chosen, Placement(chosen.id, "cached"), len(request.prompt_token_ids), keys)


POLICIES: dict[str, Callable[[Clock], Router]] = {
    "score": lambda clock: Router("score", clock=clock),
    "least-loaded": lambda clock: Router("least-loaded", clock=clock),
    "round-robin": lambda clock: Router("round-robin", clock=clock),
    "prefix-hash": lambda clock: PrefixHashRouter("round-robin", clock=clock),
    "longest-prefix": lambda clock: LongestPrefixRouter("score", clock=clock),
}
