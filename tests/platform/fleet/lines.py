"""A client whose line ends in a list: what a fleet sends to an engine, and what the engine would say."""

from __future__ import annotations

from types import SimpleNamespace

from multiflora_engine.process.client import EngineClient
from multiflora_engine.protocol.messages import Deltas, Generate, Ready, ToEngine
from multiflora_engine.protocol.requests import EngineFailure, GenerateRequest, TokenDelta
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.replica import EngineReplica
from multiflora_platform.fleet.routing import Router

READY = Ready("cpu", "float32", 64, 16, 512, 8, 4, 256, 1, 1)
DEAD = EngineFailure("engine_dead", "It died.")


class Line(EngineClient):
    def __init__(self, ready: Ready | None = READY) -> None:
        super().__init__()
        self.ready = ready
        self.sent: list[ToEngine] = []

    def send(self, message: ToEngine) -> None:
        self.sent.append(message)

    @property
    def requests(self) -> list[GenerateRequest]:
        return [message.request for message in self.sent if isinstance(message, Generate)]

    def says(self, *deltas: TokenDelta) -> None:
        self._dispatch(Deltas(list(deltas)))

    def dies(self) -> None:
        self.disconnect(DEAD)


def fleet_of(*lines: EngineClient, policy: str = "round-robin") -> Fleet:
    supervisors = [
        SimpleNamespace(client=line, state="ready" if line.ready else "restarting", restarts=0, pid=1, failure=None)
        for line in lines
    ]
    replicas = [EngineReplica(str(number), supervisor, "base") for number, supervisor in enumerate(supervisors)]
    return Fleet(replicas, Router(policy))


def a_request(id: str, prompt: list[int] | None = None, n: int = 1, deadline: float | None = None) -> GenerateRequest:
    params = SamplingParams(n=n, max_tokens=8)
    return GenerateRequest(id=id, prompt_token_ids=prompt or [1, 2, 3], params=params, deadline=deadline)
