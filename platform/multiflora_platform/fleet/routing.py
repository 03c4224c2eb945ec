"""Which replica gets a request. Knows what replicas have to do, not how they are reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_platform.fleet.replica import EngineReplica

Policy = Literal["least-loaded", "round-robin"]


class Router:
    """policy: round-robin takes them in turn; least-loaded the one with the fewest requests, of equals in turn."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._turn = 0

    def choose(self, replicas: Sequence[EngineReplica], request: GenerateRequest) -> EngineReplica:
        """One of these, of which there is at least one."""
        self._turn += 1
        in_turn = [replicas[(self._turn + place) % len(replicas)] for place in range(len(replicas))]
        if self._policy == "round-robin":
            return in_turn[0]
        return min(in_turn, key=lambda replica: replica.client.in_flight)
