"""Messages between the gateway and the engine process: msgpack over ZeroMQ, a tagged union each way. Torch-free.

Both ends belong to one release, so the tags carry no version.
"""

from __future__ import annotations

import msgspec

from multiflora_engine.protocol.config import EngineConfig
from multiflora_engine.protocol.histograms import Distribution
from multiflora_engine.protocol.requests import GenerateRequest, TokenDelta

# ---- gateway -> engine


class Start(msgspec.Struct, frozen=True, tag="start"):
    """First message: load the model and begin."""

    config: EngineConfig


class Generate(msgspec.Struct, frozen=True, tag="generate"):
    request: GenerateRequest


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    request_ids: list[str]


class EndSequence(msgspec.Struct, frozen=True, tag="end"):
    """The front end has ended one sequence of a request (a stop string came); the request's others go on."""

    request_id: str
    index: int


class AdapterCommand(msgspec.Struct, frozen=True, tag="adapter"):
    """action: load (to a slot), unload (from slot and host), pin (load and never evict), unpin, or probe (load, then
    measure how far its logits are from the base's on a fixed prompt). Answered by AdapterResult with the call_id."""

    call_id: int
    action: str
    digest: str


class StatusRequest(msgspec.Struct, frozen=True, tag="status"):
    call_id: int


class CacheRequest(msgspec.Struct, frozen=True, tag="cache"):
    """action: report (all that is cached), tokens (of one run of blocks), pin, unpin or drop (a run and what follows).

    hash: of the run's last block, hexadecimal. Answered by CacheReply with the call_id.
    """

    call_id: int
    action: str
    hash: str = ""


class SlotHistoryRequest(msgspec.Struct, frozen=True, tag="slot_history"):
    """Answered by SlotHistory with the call_id."""

    call_id: int


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    pass


ToEngine = (
    Start
    | Generate
    | Abort
    | EndSequence
    | AdapterCommand
    | StatusRequest
    | CacheRequest
    | SlotHistoryRequest
    | Shutdown
)


# ---- engine -> gateway


class LoadProgress(msgspec.Struct, frozen=True, tag="progress"):
    """Loading of the base model. stage: "weights", "kv_cache", "warmup"; done and total in bytes (or steps)."""

    stage: str
    done: int
    total: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The engine serves. Sizes are as chosen on this machine; lora_rows is the rank-row pool's height."""

    device: str
    dtype: str
    num_blocks: int
    block_size: int
    max_model_len: int
    max_num_seqs: int
    lora_slots: int
    lora_rows: int
    kv_bytes: int
    weight_bytes: int


class Deltas(msgspec.Struct, frozen=True, tag="deltas"):
    """All tokens of one step, for all requests."""

    deltas: list[TokenDelta]


class AdapterResult(msgspec.Struct, frozen=True, tag="adapter_result"):
    """error is None on success; is_full: it would have worked with fewer pinned adapters. logit_distance:
    max |adapter - base| over the probe's logits, for action "probe"."""

    call_id: int
    error: str | None = None
    logit_distance: float | None = None
    is_full: bool = False


class ResidencyReport(msgspec.Struct, frozen=True):
    """residency: "slot", "cpu" or "disk" (known, not in memory). slot: None outside slots. idle_seconds: since it was
    last asked for."""

    digest: str
    residency: str
    pinned: bool
    rank: int
    bytes: int
    running: int
    slot: int | None = None
    idle_seconds: float = 0.0


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """Gauges and monotonic counters since the engine started; times are in seconds.

    deferred: of those that wait, the ones that wait for something of their own (an adapter, a grammar, a prefix that
    another computes) and let others pass. step_tokens: tokens computed in a step. sequence_preemptions: of each
    sequence that came to its end.
    """

    running: int = 0
    waiting: int = 0
    deferred: int = 0
    num_blocks: int = 0
    free_blocks: int = 0
    cached_blocks: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    cache_queries: int = 0
    cache_hits: int = 0
    preemptions: int = 0
    evictions: int = 0
    step_seconds: float = 0.0
    adapter_loads: int = 0
    adapter_evictions: int = 0
    step_tokens: Distribution = Distribution()
    sequence_preemptions: Distribution = Distribution()


class Status(msgspec.Struct, frozen=True, tag="status_reply"):
    call_id: int
    pid: int
    stats: EngineStats
    adapters: list[ResidencyReport]


class CacheNode(msgspec.Struct, frozen=True):
    """A run of cached blocks. hash: of its last block, hexadecimal. parent: the run before it, None at the beginning.

    adapter: digest, None for the base. owner: a tenant. hits: prompts that found its last block. referenced: in use.
    """

    hash: str
    parent: str | None
    adapter: str | None
    owner: str
    tokens: int
    blocks: int
    hits: int
    age_seconds: float
    idle_seconds: float
    pinned: bool
    referenced: bool


class CacheReply(msgspec.Struct, frozen=True, tag="cache_reply"):
    """error is None on success."""

    call_id: int
    error: str | None = None
    nodes: list[CacheNode] = []
    token_ids: list[int] = []


class SlotEvent(msgspec.Struct, frozen=True):
    """event: load (it took seconds from being wanted), or evict. at: Unix seconds."""

    at: float
    event: str
    slot: int
    digest: str
    seconds: float
    bytes: int


class SlotHistory(msgspec.Struct, frozen=True, tag="slot_history_reply"):
    """The last few hundred, oldest first."""

    call_id: int
    events: list[SlotEvent]


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """Sent about once a second by the step loop itself, so that a hung loop is noticed by its absence."""

    stats: EngineStats


class Fatal(msgspec.Struct, frozen=True, tag="fatal"):
    """The engine cannot start or go on; kind "configuration" is the user's to mend, "internal" is ours."""

    kind: str
    message: str


FromEngine = LoadProgress | Ready | Deltas | AdapterResult | Status | CacheReply | SlotHistory | Heartbeat | Fatal
