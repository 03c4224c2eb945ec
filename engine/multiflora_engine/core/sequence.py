"""One sequence from arrival to finish: its tokens, where its KV lies, and how much of that KV is computed.

Plain data, written by the scheduler alone; runner and sampler only read. Knows no queues, blocks or devices.
"""

from __future__ import annotations

import enum
from array import array
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from multiflora_adapters.kv_reach import Activation
from multiflora_engine.core.moved_spans import KvMove, MovedSpan
from multiflora_engine.protocol.requests import GenerateRequest, Pooling, PositionLogprobs
from multiflora_engine.protocol.sampling_params import SamplingParams


class SequenceStatus(enum.Enum):
    """WAITING holds neither blocks nor an adapter; RUNNING holds both; FINISHED is forgotten by the scheduler."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False, kw_only=True, weakref_slot=True)
class Sequence:
    """One of the `params.num_sequences` continuations of a request; compared and hashed by identity.

    The request fills what has no default, the scheduler everything else.
    """

    request_id: str
    # Which of the request's continuations; they differ in what is sampled only.
    index: int
    params: SamplingParams
    # (priority, turn, serial number of arrival), unique; smaller is served first and preempted last. The waiting queue
    # sets the turn whenever it looks at the sequence, for the last time when it starts.
    order: tuple[int, int, int]
    # One list for all continuations of the request.
    prompt_token_ids: list[int]
    # Prompt, then output; only grows.
    token_ids: list[int]
    # Token sequences that must not appear in the output.
    bad_word_ids: list[list[int]]
    # None: the base model.
    adapter_digest: str | None
    # Part of every block's hash: only requests of equal salt share KV.
    cache_salt: str
    # Whose share of the cache its blocks count towards, and who takes turns with whom.
    cache_owner: str
    # Part of all blocks that the owner may hold, from 0 to 1.
    cache_share: float
    # Unix seconds; None: none.
    deadline: float | None
    # When the gateway received the request, Unix seconds.
    arrival_time: float
    # No client waits for it: see GenerateRequest.
    is_background: bool = False
    # Prompts to come begin so: see GenerateRequest.
    is_prefix: bool = False
    # What the output must follow, as sampling/grammars.py reads it.
    grammar: str | None = None
    # What is wanted instead of tokens: hidden states of the prompt.
    pooling: Pooling | None = None
    # Whether tokens are drafted for it; the scheduler sets it.
    is_drafted: bool = False
    # What its output may be like: see GenerateRequest. One list for all continuations.
    prediction_token_ids: list[int] | None = None
    # Of the prompt's tokens, those that are no answer's (GenerateRequest.num_asked_tokens).
    num_asked_tokens: int = 0
    # What its KV is known by beside base model and salt (multiflora_adapters.kv_reach); None: it is the base's. Known,
    # as are the next two, once root_hash is.
    kv_digest: str | None = None
    # Where an activated LoRA changes that; blocks before it are the base's.
    activation: Activation | None = None
    # The first token that its adapter computes, those before are the base's; None: all are.
    first_adapted: int | None = 0
    # The parent of its first block's hash: base model, kv_digest and salt; empty until its adapter was read.
    root_hash: bytes = b""
    # When it began to wait, Unix seconds.
    queued_at: float = 0.0
    status: SequenceStatus = SequenceStatus.WAITING
    # The tail of `token_ids` behind the prompt, as a list of its own.
    output_token_ids: list[int] = field(default_factory=list)
    # Leading tokens whose KV is in the cache: what committed steps have computed, and hits.
    num_computed_tokens: int = 0
    # The same once every step in flight is committed.
    num_scheduled_tokens: int = 0
    # Position p has its KV in slot block_table[p // block_size] * block_size + p % block_size; it may be longer than
    # what is computed. An array, because every step copies it: numpy takes its memory as it is.
    block_table: array[int] = field(default_factory=lambda: array("i"))
    # One for each full block of token_ids, computed once; empty when prefix caching is off.
    block_hashes: list[bytes] = field(default_factory=list)
    # Where its prompt's KV may be taken from elsewhere; the scheduler sets it. Blocks from the first on are known
    # by them, too.
    moved_spans: tuple[MovedSpan, ...] = ()
    # Those that steps in flight copy, whose blocks it references.
    moves: list[KvMove] = field(default_factory=list)
    # Its adapter's slot on the device while it runs; None for the base model, and while it waits.
    adapter_slot: int | None = None
    # Grows whenever it stops running, so that results of a step scheduled before are recognised and dropped.
    epoch: int = 0
    # Hash of a block that another sequence computes and this one waits for, and the step in which that began.
    pending_block: bytes | None = None
    pending_block_since: int = 0
    # Of the prompt's positions, gathered over chunks; the first position has none.
    prompt_logprobs: list[PositionLogprobs | None] | None = None
    # [H], the sum of the hidden states that pooling asks for, gathered over chunks.
    pooled: npt.NDArray[np.float32] | None = None
    # Prompt tokens found in the prefix cache, at the first start or in the prefill behind it, and why no more were at
    # the start (see CacheIndex).
    cached_tokens: int = 0
    miss_reason: str = ""
    # Prompt tokens in blocks behind those that were cached before, and evicted; known at the first start.
    evicted_tokens: int = 0
    # Which of the prompt's blocks the request has computed and published, by number; one set for all continuations.
    written_blocks: set[int] = field(default_factory=set)
    # With which uses its blocks are published (cache/worth.py): new ones, until the prefix cache says otherwise.
    block_uses: int = 1
    # Seconds from queued_at to the first start.
    queued_seconds: float = 0.0
    # When it first waited for its adapter alone, Unix seconds or 0, and the seconds from then to the first start.
    load_since: float = 0.0
    load_seconds: float = 0.0
    # Its part of the executed steps' time, as far as no delta has told of it. The engine adds, a delta clears.
    device_seconds: float = 0.0

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
    def serial(self) -> int:
        """Its number among all sequences, by arrival."""
        return self.order[2]

    @property
    def needs_prompt_logprobs(self) -> bool:
        """Whether prefill chunks must yield prompt log-probabilities; they travel once, with index 0's first delta."""
        return self.params.prompt_logprobs is not None and self.index == 0 and not self.output_token_ids

    @property
    def reads_whole_prompt(self) -> bool:
        """Whether something is wanted of every prompt position, so that cached blocks cannot stand in for any."""
        return self.needs_prompt_logprobs or self.pooling == "mean"

    def kv_at(self, token: int) -> str | None:
        """What the KV of the whole block that ends behind this token is known by; None: it is the base's."""
        return self.kv_digest if self.activation is None or token >= self.activation.token else None

    def slot_at(self, token: int) -> int | None:
        """Whose weights compute this token and those behind it that are computed with it."""
        return None if self.first_adapted is None or token < self.first_adapted else self.adapter_slot

    def append_token(self, token_id: int) -> None:
        self.token_ids.append(token_id)
        self.output_token_ids.append(token_id)


def owner_of(request: GenerateRequest) -> str:
    """Whose the request is: its tenant's; without tenants, all requests of one salt have one owner."""
    return request.cache_owner or request.cache_salt


def make_sequences(request: GenerateRequest, first_serial: int, queued_at: float = 0.0) -> list[Sequence]:
    """The request's sequences, in the order in which they are served; what they share is the prompt's: its list, and
    which of its blocks are written."""
    written: set[int] = set()
    return [
        Sequence(
            request_id=request.id,
            index=index,
            params=request.params,
            order=(request.priority, 0, first_serial + index),
            prompt_token_ids=request.prompt_token_ids,
            token_ids=list(request.prompt_token_ids),
            bad_word_ids=request.bad_word_ids,
            adapter_digest=request.adapter_digest,
            cache_salt=request.cache_salt,
            cache_owner=owner_of(request),
            cache_share=request.cache_share,
            deadline=request.deadline,
            arrival_time=request.arrival_time,
            is_background=request.background,
            is_prefix=request.is_prefix,
            grammar=request.grammar,
            queued_at=queued_at,
            pooling=request.pooling,
            written_blocks=written,
            prediction_token_ids=request.prediction_token_ids,
            num_asked_tokens=request.num_asked_tokens or len(request.prompt_token_ids),
        )
        for index in range(request.params.num_sequences)
    ]
