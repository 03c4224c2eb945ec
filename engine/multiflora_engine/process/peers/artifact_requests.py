"""Which gateway is asked for an artifact that this host lacks: one after the other, until one has it.

Knows peers and messages; what becomes of the parts is another's.
"""

from __future__ import annotations

from collections.abc import Iterator

from multiflora_engine.process.served import WantedArtifacts
from multiflora_engine.process.socket import EngineSocket, Peer
from multiflora_engine.protocol.messages import ArtifactPart, ArtifactWanted


class ArtifactRequests:
    def __init__(self, artifacts: WantedArtifacts, socket: EngineSocket) -> None:
        self._artifacts = artifacts
        self._socket = socket
        self._wanted: ArtifactWanted | None = None
        self._asked: Peer | None = None
        self._untried: Iterator[Peer] = iter(())
        # Of the last one that was asked and could not say more.
        self._problem = ""

    def advance(self) -> None:
        """Once in each turn of the step loop: asks for what is wanted now."""
        wanted = self._artifacts.take_wanted()
        if wanted is not None:
            self._wanted = wanted
            # A file's next part comes from where the one before came from, if that is still there. A starter that is no
            # gateway has nothing.
            peers = sorted(self._socket.peers, key=lambda peer: (peer is not self._asked, peer.is_starter))
            self._untried = iter(peers)
            self._problem = ""
            self._ask_next(wanted)
        elif self._wanted is not None and self._asked not in self._socket.peers:
            self._ask_next(self._wanted)

    def take(self, peer: Peer, part: ArtifactPart) -> None:
        """What a gateway sent."""
        if part.wanted != self._wanted or peer is not self._asked:
            return
        if part.is_missing:
            self._problem = part.problem or self._problem
            self._ask_next(part.wanted)
        else:
            self._wanted = None
            self._artifacts.deliver(part)

    def _ask_next(self, wanted: ArtifactWanted) -> None:
        self._asked = next(self._untried, None)
        if self._asked is not None:
            self._socket.send(self._asked, wanted)
        else:
            self._wanted = None
            self._artifacts.deliver(ArtifactPart(wanted, is_missing=True, problem=self._problem))
