"""An adapter comes to the host memory of all ranks, each its part, or to none's. Knows no slots.

Every rank reads the files itself; what they exchange is whether each could, and the sums of squares of DoRA's norms
over inputs that are divided among them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
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
"""(digest, what sums squares over all ranks) -> this rank's part. It asks for sums once, or not at all, after all else
that could go wrong with the adapter's files."""


class SharedLoads:
    """The first rank's loader, called with a digest on the reader's thread; see `AdapterLoader`."""

    def __init__(self, load: LoadPart, line: RankLine) -> None:
        self._load = load
        self._line = line
        self._serial = WARM_UP
        self._serials: dict[str, int] = {}

    def __call__(self, digest: str) -> HostAdapter:
        """Raises what this rank's load raises, or AdapterError for another's."""
        self._serial += 1
        self._line.tell_adapters(LoadAdapter(self._serial, digest))
        try:
            host = self._load(digest, self._agree)
        except _RefusedByAnother:
            raise
        except BaseException as problem:
            self._line.answers()
            self._line.tell_adapters(Refused(str(problem)))
            raise
        self._agree({})
        self._serials[digest] = self._serial
        return host

    def serial_of(self, digest: str) -> int:
        """Of the load that brought the adapter here last."""
        return self._serials.get(digest, WARM_UP)

    def forget(self, digest: str) -> None:
        """This rank's copy in host memory is dropped, and so are the others'."""
        self._line.send(ForgetAdapter(self._serials.pop(digest)))

    def _agree(self, squares: Squares) -> Squares:
        """squares: this rank's. Returns all ranks' sums, which every rank is told."""
        answers = self._line.answers()
        refusal = next((answer for answer in answers if isinstance(answer, Refused)), None)
        if refusal is not None:
            self._line.tell_adapters(refusal)
            raise _RefusedByAnother(error("rank", refusal.message))
        for answer in answers:
            assert isinstance(answer, Agreed)
            theirs = _from_bytes(answer.squares)
            squares = {name: own + theirs[name] for name, own in squares.items()}
        self._line.tell_adapters(Agreed(_to_bytes(squares)))
        return squares


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
            self.held[message.serial] = self._load(message.digest, self._sum)
            self._ask({})
        except _NotAgreed:
            self.held.pop(message.serial, None)
        except EOFError:
            raise
        except Exception as problem:
            _log.exception("loading adapter %s failed", message.digest)
            self._say(Refused(str(problem)))
            self._line.recv_bytes()  # what the others say changes nothing

    def _sum(self, squares: Squares) -> Squares:
        return _from_bytes(self._ask(_to_bytes(squares)))

    def _ask(self, squares: Mapping[str, bytes]) -> dict[str, bytes]:
        self._say(Agreed(dict(squares)))
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
