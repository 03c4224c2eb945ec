"""What the first rank tells the others, in order, and what they answer: msgpack, arrays as their bytes."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import numpy as np

from multiflora_engine.core.block_tiers import BlockChain
from multiflora_engine.execution.step_arrays import StepArrays
from multiflora_engine.protocol.config import SizedConfig


class StartRank(msgspec.Struct, frozen=True, tag=True):
    """The first message to a rank's process."""

    config: SizedConfig
    rank: int
    meeting: str
    """The file by which the ranks find each other."""
    available: int | None
    """Bytes of host memory that the rank's weights may take; None on a GPU."""


class RunStep(msgspec.Struct, frozen=True, tag=True):
    """Its layers; the logits wait for a FinishStep."""

    arrays: StepArrays


class FinishStep(msgspec.Struct, frozen=True, tag=True):
    """The oldest step that was begun has come through all stages."""


class FollowTokens(msgspec.Struct, frozen=True, tag=True):
    """The first rank has sampled so many tokens, which only devices know until the next step."""

    count: int


class RunDummy(msgspec.Struct, frozen=True, tag=True):
    """See `DummyPass.logits`."""

    slots: list[int | None]
    tokens: int


class PlaceAdapter(msgspec.Struct, frozen=True, tag=True):
    """Its copy to a slot begins: as the first rank's pool has chosen, and so will this one."""

    serial: int
    """Of the load that brought the adapter into host memory."""
    slot: int
    at_end: bool


class CopyAdapter(msgspec.Struct, frozen=True, tag=True):
    slot: int
    max_bytes: int


class AttachAdapter(msgspec.Struct, frozen=True, tag=True):
    """What is left of the copy is waited for: steps that follow may use the slot."""

    slot: int


class RemoveAdapter(msgspec.Struct, frozen=True, tag=True):
    slot: int


class ForgetAdapter(msgspec.Struct, frozen=True, tag=True):
    """Its copy in host memory."""

    serial: int


class KeepBlocks(msgspec.Struct, frozen=True, tag=True):
    """They are published: see `BlockTiers.keep`. chain: the part of it that is needed."""

    chain: BlockChain
    numbers: list[int]
    block_ids: list[int]
    are_hits: bool


class GiveUpBlocks(msgspec.Struct, frozen=True, tag=True):
    """What follows may write them."""

    block_ids: list[int]


class LoadBlocks(msgspec.Struct, frozen=True, tag=True):
    """See `BlockTiers.load`; answered by BlocksLoaded."""

    serial: int
    hashes: list[bytes]
    block_ids: list[int]
    share: float


class StopLoad(msgspec.Struct, frozen=True, tag=True):
    """No sequence waits for it any more."""

    serial: int


class DropBlocks(msgspec.Struct, frozen=True, tag=True):
    """See `BlockTiers.drop`."""

    hashes: list[bytes]


class ClearBlocks(msgspec.Struct, frozen=True, tag=True):
    """All copies."""


class BlocksLoaded(msgspec.Struct, frozen=True, tag=True):
    """A load has ended. count: of its blocks, those from the first one on that this rank has."""

    serial: int
    count: int


class Started(msgspec.Struct, frozen=True, tag=True):
    """The rank's process is there, and goes on to join the group."""


class RankFailed(msgspec.Struct, frozen=True, tag=True):
    """Last words. is_configuration: the operator can mend it."""

    message: str
    is_configuration: bool


class LoadAdapter(msgspec.Struct, frozen=True, tag=True):
    """Bring an adapter to host memory."""

    serial: int
    digest: str


class Agreed(msgspec.Struct, frozen=True, tag=True):
    """So far the rank could load the adapter; from the first rank: all could. Said twice: of the files, and when the
    rank's part is there."""

    squares: dict[str, bytes] = {}
    """Of what is normed, by linear, float32: a rank's own sums, or those of all."""
    num_bytes: int = 0
    """That a rank's part takes of the device."""
    own_bytes: int = 0
    """See `HostAdapter.own_bytes`."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """A rank cannot load the adapter, so none keeps it."""

    message: str


ToCopies = KeepBlocks | GiveUpBlocks | LoadBlocks | StopLoad | DropBlocks | ClearBlocks
ToRank = (
    StartRank
    | RunStep
    | FinishStep
    | FollowTokens
    | RunDummy
    | PlaceAdapter
    | CopyAdapter
    | AttachAdapter
    | RemoveAdapter
    | ForgetAdapter
    | ToCopies
)
FromRank = Started | RankFailed
ToAdapters = LoadAdapter | Agreed | Refused
FromAdapters = Agreed | Refused

Kind = TypeVar("Kind")


def encode(message: ToRank | FromRank | ToAdapters | FromAdapters | BlocksLoaded) -> bytes:
    return _encoder.encode(message)


def decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """Of one of the unions above, or of a single message."""
    return msgspec.msgpack.Decoder(kind, dec_hook=_decoded)


def _encoded(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    raise NotImplementedError(type(value))


def _decoded(kind: type, value: Any) -> Any:
    dtype, shape, content = value
    return np.frombuffer(content, dtype).reshape(shape)


_encoder = msgspec.msgpack.Encoder(enc_hook=_encoded)
