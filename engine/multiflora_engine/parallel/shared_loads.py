"""An adapter comes to the host memory of all ranks, each its part, or to none's. Knows no slots.

Every rank reads the files itself; what they exchange is whether each could, and the sums of squares of DoRA's norms
over inputs that are divided among them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection

import torch

from multiflora_adapters.dora.norms import Squares, SumSquares
from multiflora_adapters.report import AdapterError, error
from multiflora_adapters.weights import HostAdapter
from multiflora_engine.parallel.line import RankLine
from multiflora_engine.parallel.messages import (
    Agreed,
    ForgetAdapter,
    FromAdapters,
    LoadAdapter,
    Refused,
    ToAdapters,
    decoder,
    encode,
)

_log = logging.getLogger(__name__)
_to_adapters = decoder(ToAdapters)

WARM_UP = 0
"""The number of the load that no rank makes: of the adapter that warms up kernels, which every rank has."""

LoadPart = Callable[[str, SumSquares], HostAdapter]
"""(digest, what sums squares over all ranks) -> this rank's part. It asks for sums exactly once, after all else that
could go wrong with the adapter's files."""


class SharedLoads:
    """The first rank's loader, called with a digest on the reader's thread; see `AdapterLoader`."""

    def __init__(self, load: LoadPart, line: RankLine, ranks_of_stage: int = 1) -> None:
        self._load = load
        self._line = line
        self._ranks_of_stage = ranks_of_stage
        self._serial = WARM_UP
        self._serials: dict[str, int] = {}

    def __call__(self, digest: str) -> HostAdapter:
        """This rank's part, with what others' take. Raises what this rank's load raises, or AdapterError for
        another's."""
        self._serial += 1
        self._line.tell_adapters(LoadAdapter(self._serial, digest))
        try:
            host = self._load(digest, self._sum)
        except _RefusedByAnother:
            raise
        except BaseException as problem:
            self._line.answers()
            self._line.tell_adapters(Refused(str(problem)))
            raise
        others = self._agreed()
        self._line.tell_adapters(Agreed())
        self._serials[digest] = self._serial
        return self._with_others(host, others)

    def serial_of(self, digest: str) -> int:
        """Of the load that brought the adapter here last."""
        return self._serials.get(digest, WARM_UP)

    def forget(self, digest: str) -> None:
        """This rank's copy in host memory is dropped, and so are the others'."""
        self._line.send(ForgetAdapter(self._serials.pop(digest)))

    def _sum(self, squares: Squares) -> Squares:
        """squares: this rank's. Returns all ranks' sums, of which every rank is told."""
        for answer in self._agreed():
            for name, theirs in _from_bytes(answer.squares).items():
                squares[name] = squares[name] + theirs if name in squares else theirs
        self._line.tell_adapters(Agreed(_to_bytes(squares)))
        return squares

    def _agreed(self) -> list[Agreed]:
        """What each of the others says. Raises AdapterError, of which all are told, where one of them refuses."""
        answers = self._line.answers()
        for answer in answers:
            if isinstance(answer, Refused):
                self._line.tell_adapters(answer)
                raise _RefusedByAnother(error("rank", answer.message))
        return [answer for answer in answers if isinstance(answer, Agreed)]

    def _with_others(self, host: HostAdapter, others: Sequence[Agreed]) -> HostAdapter:
        taken = [host.num_bytes, *(other.num_bytes for other in others)]
        size = self._ranks_of_stage
        return replace(
            host,
            most_own_bytes=max(host.own_bytes, *(other.own_bytes for other in others)),
            stage_bytes=tuple(sum(taken[first : first + size]) for first in range(0, len(taken), size)),
        )


class _RefusedByAnother(AdapterError):
    """Another rank cannot load the adapter; all know."""


class LoadFollower:
    """Another rank's part of it, on a thread of its own. held: host copies by the number of their load, from the start
    that which warms up kernels."""

    def __init__(self, load: LoadPart, line: Connection, warm_up: HostAdapter) -> None:
        self.held = {WARM_UP: warm_up}
        self._load = load
        self._line = line

    def run(self) -> None:
        """Until the first rank closes the line."""
        try:
            while True:
                message = _to_adapters.decode(self._line.recv_bytes())
                assert isinstance(message, LoadAdapter), "a load begins"
                self._follow(message)
        except (EOFError, OSError):
            return

    def _follow(self, message: LoadAdapter) -> None:
        try:
            # Held before the first rank hears of it, which may place it at once.
            host = self.held[message.serial] = self._load(message.digest, self._sum)
            self._ask(Agreed(num_bytes=host.num_bytes, own_bytes=host.own_bytes))
        except _NotAgreed:
            self.held.pop(message.serial, None)
        except EOFError:
            raise
        except Exception as problem:
            _log.exception("loading adapter %s failed", message.digest)
            self._say(Refused(str(problem)))
            self._line.recv_bytes()  # what the others say changes nothing

    def _sum(self, squares: Squares) -> Squares:
        return _from_bytes(self._ask(Agreed(_to_bytes(squares))))

    def _ask(self, message: Agreed) -> dict[str, bytes]:
        self._say(message)
        answer = _to_adapters.decode(self._line.recv_bytes())
        if not isinstance(answer, Agreed):
            raise _NotAgreed
        return answer.squares

    def _say(self, message: FromAdapters) -> None:
        self._line.send_bytes(encode(message))


class _NotAgreed(Exception):
    """A rank could not load the adapter."""


def _to_bytes(squares: Squares) -> dict[str, bytes]:
    return {name: sums.numpy().tobytes() for name, sums in squares.items()}


def _from_bytes(content: Mapping[str, bytes]) -> Squares:
    return {name: torch.frombuffer(bytearray(sums), dtype=torch.float32) for name, sums in content.items()}
