"""One sequence from arrival to finish: its tokens, where its KV lies, and how much of that KV is computed.

Plain data, written by the scheduler alone; runner and sampler only read. Knows no queues, blocks or devices.
"""

from __future__ import annotations

import enum
from array import array
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from multiflora_engine.protocol.requests import (
    GenerateRequest,
    Pooling,
    PositionLogprobs,
    SamplingParams,
)


class SequenceStatus(enum.Enum):
    """WAITING holds neither blocks nor an adapter; RUNNING holds both; FINISHED is known to nobody any more."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False, kw_only=True, weakref_slot=True)
class Sequence:
    """One of the `params.num_sequences` continuations of a request; compared and hashed by identity.

    order: (priority, turn, serial number of arrival), unique; smaller is served first and preempted last.
    token_ids: prompt then output, one list that only grows; `output_token_ids` is its tail as a list of its own.
    num_computed_tokens: leading tokens whose KV is in the cache. The KV of position p lies in slot
        `block_table[p // block_size] * block_size + p % block_size`; the table may be longer than what is computed.
        An array, because every step copies it: numpy takes its memory as it is.
    block_hashes: one per full block of token_ids, each computed once; empty when prefix caching is off.
    adapter_slot: device slot of the adapter while RUNNING; None for the base model or while WAITING.
    cached_tokens: prompt tokens found in the prefix cache at the first start. prompt_logprobs: gathered over chunks.
    queued_at: Unix seconds. queued_seconds: from then to the first start. load_since: when it first waited for its
        adapter alone, Unix seconds or 0; load_seconds: from then to the first start. miss_reason: see CacheIndex.
    device_seconds: its part of the executed steps' time, as far as no delta has told of it.
    epoch: grows whenever it stops running, so that results of a step scheduled before are recognised and dropped.
    num_scheduled_tokens: leading tokens whose KV is in the cache once every step in flight is committed.
    pooled: [H], the sum of the hidden states that pooling asks for, gathered over chunks.
    pending_block: hash of a block that another sequence is computing and this one waits for.
    pending_block_since: the step in which that began.
    """

    request_id: str
    index: int
    params: SamplingParams
    order: tuple[int, int, int]
    prompt_token_ids: list[int]
    token_ids: list[int]
    bad_word_ids: list[list[int]]
    adapter_digest: str | None
    cache_salt: str
    cache_owner: str
    cache_share: float
    deadline: float | None
    arrival_time: float
    grammar: str | None = None
    root_hash: bytes = b""
    output_token_ids: list[int] = field(default_factory=list)
    num_computed_tokens: int = 0
    num_scheduled_tokens: int = 0
    block_table: array[int] = field(default_factory=lambda: array("i"))
    block_hashes: list[bytes] = field(default_factory=list)
    adapter_slot: int | None = None
    cached_tokens: int = 0
    queued_at: float = 0.0
    queued_seconds: float = 0.0
    load_since: float = 0.0
    load_seconds: float = 0.0
    miss_reason: str = ""
    device_seconds: float = 0.0
    status: SequenceStatus = SequenceStatus.WAITING
    epoch: int = 0
    pending_block: bytes | None = None
    pending_block_since: int = 0
    prompt_logprobs: list[PositionLogprobs | None] | None = None
    pooling: Pooling | None = None
    pooled: npt.NDArray[np.float32] | None = None

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_token_ids)

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_pending_tokens(self) -> int:
        """Tokens that steps in flight are sampling: they will follow `token_ids`, which does not have them yet."""
        return max(0, self.num_scheduled_tokens + 1 - len(self.token_ids))

    @property
    def in_flight(self) -> bool:
        """Whether a step that is not committed yet computes tokens of it."""
        return self.num_scheduled_tokens > self.num_computed_tokens

    @property
    def priority(self) -> int:
        return self.order[0]

    @property
    def needs_prompt_logprobs(self) -> bool:
        """Whether prefill chunks must yield prompt log-probabilities; they travel once, with index 0's first delta."""
        return self.params.prompt_logprobs is not None and self.index == 0 and not self.output_token_ids

    @property
    def reads_whole_prompt(self) -> bool:
        """Whether something is wanted of every prompt position, so that cached blocks cannot stand in for any."""
        return self.needs_prompt_logprobs or self.pooling == "mean"

    def append_token(self, token_id: int) -> None:
        self.token_ids.append(token_id)
        self.output_token_ids.append(token_id)


def owner_of(request: GenerateRequest) -> str:
    """Whose the request is: its tenant's, or whoever else uses its salt."""
    return request.cache_owner or request.cache_salt


def make_sequences(
    request: GenerateRequest,
    first_serial: int,
    root_hash: bytes,
    queued_at: float = 0.0,
    turns: Items[int] | None = None,
) -> list[Sequence]:
    """The request's sequences, in the order in which they are served; they share the prompt's list.

    turns: one for each, see FairQueue; None for the order of arrival.
    """
    return [
        Sequence(
            request_id=request.id,
            index=index,
            params=request.params,
            order=(request.priority, 0 if turns is None else turns[index], first_serial + index),
            prompt_token_ids=request.prompt_token_ids,
            token_ids=list(request.prompt_token_ids),
            bad_word_ids=request.bad_word_ids,
            adapter_digest=request.adapter_digest,
            cache_salt=request.cache_salt,
            cache_owner=owner_of(request),
            cache_share=request.cache_share,
            deadline=request.deadline,
            arrival_time=request.arrival_time,
            grammar=request.grammar,
            root_hash=root_hash,
            queued_at=queued_at,
            pooling=request.pooling,
        )
        for index in range(request.params.num_sequences)
    ]
