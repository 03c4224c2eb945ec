"""Messages between gateways and an engine process: msgpack over ZeroMQ, a tagged union each way. Torch-free.

Both ends speak one PROTOCOL, so the tags carry no version.
"""

from __future__ import annotations

import msgspec

from multiflora_engine.protocol.cache_change import CacheChange
from multiflora_engine.protocol.histograms import Distribution
from multiflora_engine.protocol.requests import GenerateRequest, TokenDelta
from multiflora_engine.protocol.traced_request import TracedRequest

PROTOCOL = 1
"""Counted up with each release that changes a message. An engine and a gateway of different ones do not talk."""


class ArtifactWanted(msgspec.Struct, frozen=True, tag="artifact_wanted"):
    """engine -> gateway: the engine's host lacks an artifact, and asks for a file of it from this offset (bytes) on.
    Answered by ArtifactPart."""

    digest: str
    name: str
    offset: int


# ---- gateway -> engine


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """First message of every connection, answered by Welcome once the engine serves; what comes before is ignored."""

    protocol: int
    # A name that the gateway gave itself and keeps over all its lines to this engine: what is held for it stays while
    # it comes back.
    gateway: str = ""


class Generate(msgspec.Struct, frozen=True, tag="generate"):
    request: GenerateRequest


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    request_ids: list[str]


class EndSequence(msgspec.Struct, frozen=True, tag="end"):
    """The front end has ended one sequence of a request (a stop string came); the request's others go on."""

    request_id: str
    index: int


class Withdraw(msgspec.Struct, frozen=True, tag="withdraw"):
    """Another engine may answer these sooner. Answered by Withdrawn, unless all of them have begun."""

    request_ids: list[str]


class AdapterCommand(msgspec.Struct, frozen=True, tag="adapter"):
    """action: load (to a slot), unload (from slot and host), pin (load and never evict), unpin, or probe (load, then
    measure how far its logits are from the base's on a fixed prompt). Answered by AdapterResult with the call_id."""

    call_id: int
    action: str
    digest: str


class StatusRequest(msgspec.Struct, frozen=True, tag="status"):
    call_id: int


class CacheRequest(msgspec.Struct, frozen=True, tag="cache"):
    """action: report (all that is cached), tokens (of one run of blocks), pin or unpin (for operators, of whoever held
    it), hold or release (for the gateway that asks), drop (a run and what follows), find (how far a prompt is cached),
    held (hashes of what is cached, a page of block ids at a time), trace (blocks of the requests that ended since it
    was asked for last; the first time begins a recording).

    hash: of the run's last block, hexadecimal. Answered by CacheReply with the call_id.
    """

    call_id: int
    action: str
    hash: str = ""
    # Of find: the hashes of the prompt's whole blocks, the first one first, each of HASH_BYTES.
    chain: bytes = b""
    # Of held: the block id that the page begins with.
    first: int = 0
    # Of hold and release: the gateway's name. The step loop fills it.
    holder: str = ""


class FollowCache(msgspec.Struct, frozen=True, tag="follow_cache"):
    """From now on, CacheChanges of this following are sent after each step that has any, and AdapterMoves when adapters
    move; 0: no more."""

    following: int


class SlotHistoryRequest(msgspec.Struct, frozen=True, tag="slot_history"):
    """Answered by SlotHistory with the call_id."""

    call_id: int


class ProfileRequest(msgspec.Struct, frozen=True, tag="profile"):
    """kind: torch, python or memory. Answered by ProfileReply with the call_id, once it was recorded."""

    call_id: int
    kind: str
    seconds: float


class ArtifactPart(msgspec.Struct, frozen=True, tag="artifact_part"):
    """The answer to ArtifactWanted."""

    wanted: ArtifactWanted
    data: bytes = b""
    # Of the whole file, in bytes.
    size: int = 0
    # This gateway does not have it.
    is_missing: bool = False
    # Why not, where that is not simply so.
    problem: str = ""


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    pass


ToEngine = (
    Hello
    | Generate
    | Abort
    | EndSequence
    | Withdraw
    | AdapterCommand
    | StatusRequest
    | CacheRequest
    | FollowCache
    | SlotHistoryRequest
    | ProfileRequest
    | ArtifactPart
    | Shutdown
)


# ---- engine -> gateway


class LoadProgress(msgspec.Struct, frozen=True, tag="progress"):
    """Loading of the base model. stage: "weights", "kv_cache", "warmup"; done and total in bytes (or steps)."""

    stage: str
    done: int
    total: int


class StageMemory(msgspec.Struct, frozen=True):
    """What one stage's part of the model takes, of all its ranks."""

    num_layers: int
    weight_bytes: int
    # Of its layers' part of all KV blocks.
    kv_bytes: int


class Ready(msgspec.Struct, frozen=True):
    """What the engine serves with. Filled by `ready_report` with the sizes that were chosen on this machine."""

    # As torch names it.
    device: str
    # Of the base model's weights, as torch names it.
    dtype: str
    # KV blocks, of block_size tokens each.
    num_blocks: int
    block_size: int
    # Tokens of the longest sequence, prompt and output together.
    max_model_len: int
    # Sequences that run at the same time.
    max_num_seqs: int
    # Adapters that can be on the device at once, if their ranks together fit into lora_rows.
    lora_slots: int
    # Height of the pool of rank rows, of which an adapter takes as many as its rank.
    lora_rows: int
    # Of all KV blocks.
    kv_bytes: int
    # Of the base model.
    weight_bytes: int
    # Why cached keys cannot be moved to another place in a prompt; None: they can.
    why_keys_stay: str | None = None
    # Of the base model's weights and configuration.
    base_digest: str = ""
    # Where some layers are computed after others by other ranks: of each part, in the layers' order; else of the one.
    stages: tuple[StageMemory, ...] = ()
    # The token budget of one step.
    max_num_batched_tokens: int = 2048
    # The share of a GPU's memory that it uses; None on a CPU.
    gpu_memory_utilization: float | None = None
    # Steps are CUDA graphs, as far as their sizes have one.
    has_graphs: bool = False


class Welcome(msgspec.Struct, frozen=True, tag="welcome"):
    """The answer to Hello, and the first message that a gateway gets of an engine that serves."""

    # Which life of the engine this is: Unix milliseconds of its start. What an earlier one had cached is lost.
    epoch: int
    ready: Ready
    # Digests of the adapters that are pinned, whichever gateway pinned them.
    pins: list[str]


class PinnedAdapters(msgspec.Struct, frozen=True, tag="pinned"):
    """All that are pinned now, after one was pinned or unpinned by another gateway."""

    digests: list[str]


class Deltas(msgspec.Struct, frozen=True, tag="deltas"):
    """All tokens of one step, for all requests."""

    deltas: list[TokenDelta]


class Withdrawn(msgspec.Struct, frozen=True, tag="withdrawn"):
    """Requests of a Withdraw that had not begun: the engine has forgotten them."""

    request_ids: list[str]


class AdapterResult(msgspec.Struct, frozen=True, tag="adapter_result"):
    """The answer to AdapterCommand, filled by AdapterCommands in the engine process."""

    call_id: int
    # None on success.
    error: str | None = None
    # max |adapter - base| over the probe's logits, for action "probe".
    logit_distance: float | None = None
    # It would have worked with fewer pinned adapters.
    is_full: bool = False


class ResidencyReport(msgspec.Struct, frozen=True):
    """Where one adapter is. Filled by AdapterRecord."""

    digest: str
    # "slot", "cpu" or "disk" (known, not in memory).
    residency: str
    pinned: bool
    # 0 until it was read for the first time; so is bytes.
    rank: int
    bytes: int
    # Sequences that hold its slot.
    running: int
    # None outside slots.
    slot: int | None = None
    # Since it was last asked for, or let go of by a sequence.
    idle_seconds: float = 0.0
    # Of the pool's rank rows, from which on it has `rank`. None outside slots.
    first_row: int | None = None


class TierStats(msgspec.Struct, frozen=True, kw_only=True):
    """A place for copies of KV blocks behind the device: "host" or "disk". Filled by Offloading.

    Copies there are now, and sums since the engine started, in blocks.
    """

    name: str
    blocks: int
    bytes: int
    capacity_bytes: int
    stored: int
    # Read back for requests that start on them.
    loaded: int
    # Wanted, and damaged or unreadable: computed again instead.
    lost: int
    failed_writes: int
    evictions: int
    # As it was measured lately; 0: not yet.
    bytes_per_second: float


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """Gauges (the first seven, and bytes) and monotonic counters since the engine started.

    The scheduler fills what it knows; the engine adds steps, step_seconds, step_tokens and the adapters' counters.
    """

    # Sequences that hold blocks.
    running: int = 0
    # Sequences in the queue.
    waiting: int = 0
    # Of these, the ones that wait for something of their own (an adapter, a grammar, a prefix that another sequence
    # computes) and let others pass.
    deferred: int = 0
    num_blocks: int = 0
    # What can be allocated: empty blocks and evictable ones.
    free_blocks: int = 0
    # Published blocks, evictable ones and those in use.
    cached_blocks: int = 0
    # Tokens of prompts that are still to be computed, as far as is known before a waiting sequence starts.
    pending_prefill_tokens: int = 0
    # Calls that had something to execute or to take in.
    steps: int = 0
    # Of every request with a computed prompt, once.
    prompt_tokens: int = 0
    # Output tokens of all sequences.
    generation_tokens: int = 0
    # Prompt tokens looked up in the prefix cache and found there, counted when a sequence starts for the first time.
    cache_queries: int = 0
    cache_hits: int = 0
    # Times that a running sequence gave up its blocks for another one.
    preemptions: int = 0
    # Cached blocks that were given away.
    evictions: int = 0
    # Speculation: drafts that were verified, their tokens, and those of them that the model chose as well.
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    # The host's time in those steps.
    step_seconds: float = 0.0
    # Behind the device, the fastest first; none without --kv-offload-bytes and --kv-offload-dir.
    tiers: list[TierStats] = []
    # Adapters that came to slots, and that were driven from them.
    adapter_loads: int = 0
    adapter_evictions: int = 0
    # Of adapters now: what those in slots take of the device, and copies in host memory, of all ranks.
    adapter_bytes: int = 0
    adapter_host_bytes: int = 0
    # The first by stage, as in Ready; empty for one rank, or none in a slot.
    stage_adapter_bytes: list[int] = []
    # Of artifacts on this host: what came from gateways, and what went for others. Bytes are those of the last fetch.
    artifact_fetches: int = 0
    artifact_fetched_bytes: int = 0
    artifact_evictions: int = 0
    artifact_cache_bytes: int = 0
    # Tokens computed in a step.
    step_tokens: Distribution = Distribution()
    # Of each sequence that came to its end.
    sequence_preemptions: Distribution = Distribution()


class Status(msgspec.Struct, frozen=True, tag="status_reply"):
    call_id: int
    pid: int
    stats: EngineStats
    adapters: list[ResidencyReport]


class CacheNode(msgspec.Struct, frozen=True):
    """A run of cached blocks, filled by CacheAdmin."""

    # Of its last block, hexadecimal.
    hash: str
    # The hash of the run before it; None at the beginning.
    parent: str | None
    # Digest of the adapter that it was computed for, of several that have this KV; None: it is the base model's.
    adapter: str | None
    # A tenant.
    owner: str
    tokens: int
    blocks: int
    # Sequences that started on its last block.
    hits: int
    # Since its first block was published.
    age_seconds: float
    # Since its last block was hit.
    idle_seconds: float
    # An operator has pinned it: its blocks are not evicted.
    pinned: bool
    # A sequence or a pin holds one of its blocks.
    referenced: bool


class CacheReply(msgspec.Struct, frozen=True, tag="cache_reply"):
    """error is None on success."""

    call_id: int
    error: str | None = None
    nodes: list[CacheNode] = []
    token_ids: list[int] = []
    # Of find: blocks that are on the device before the first one that is not; those that are there or can be loaded;
    # and whether the one behind these was evicted.
    found: int = 0
    reached: int = 0
    evicted: bool = False
    # Of a trace, with how many requests are lost because it was asked for too seldom, and whether more can be had now.
    traced: list[TracedRequest] = []
    lost: int = 0
    has_more: bool = False
    # Of held: what is cached among the page's blocks, the first block id of the next page (None: there is none), and
    # how many changes the following had had when the page was begun; the later ones are to be applied behind it.
    held: list[CacheChange] = []
    first: int | None = None
    at: int = 0


class CacheChanges(msgspec.Struct, frozen=True, tag="cache_changes"):
    """What was published and given up since the last ones, in order; sent before the deltas of the same step."""

    following: int
    changes: list[CacheChange]


class AdapterMoves(msgspec.Struct, frozen=True, tag="adapter_moves"):
    """Where adapters are that have moved since the last ones: "slot", "cpu" or "disk", by digest. Sent before the
    deltas of the same step. is_all: what is not named is on disk; the first of a following is."""

    places: dict[str, str]
    is_all: bool = False


class SlotEvent(msgspec.Struct, frozen=True):
    """An adapter came to a slot or left it. Filled by AdapterResidency."""

    # Unix seconds.
    at: float
    # "load" or "evict".
    event: str
    slot: int
    digest: str
    # From being wanted to being loaded; 0 for "evict".
    seconds: float
    # Of the adapter.
    bytes: int


class EvictionForecast(msgspec.Struct, frozen=True):
    """What leaves for one more adapter of a rank, as things are. Filled by AdapterResidency."""

    rank: int
    # In the order of leaving; None: it finds no room, for what is pinned or in use.
    digests: list[str] | None


class SlotHistory(msgspec.Struct, frozen=True, tag="slot_history_reply"):
    """events: the last few hundred, oldest first. forecasts: by rank, upwards."""

    call_id: int
    events: list[SlotEvent]
    forecasts: list[EvictionForecast] = []


class ProfileReply(msgspec.Struct, frozen=True, tag="profile_reply"):
    """error is None on success."""

    call_id: int
    error: str | None = None
    trace: bytes = b""


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    """Sent about once a second by the step loop itself, so that a hung loop is noticed by its absence."""

    stats: EngineStats


class EngineLoad(msgspec.Struct, frozen=True, tag="load"):
    """What the engine has to do, whoever asked for it. Where several gateways use it, sent to those that follow the
    cache, after each step that changed it."""

    # Of this gateway's requests on this line, how many are in these numbers, or have ended.
    acked: int
    pending_prefill_tokens: int
    running: int


class Draining(msgspec.Struct, frozen=True, tag="draining"):
    """The engine was told to end: it answers what it has, and goes. New requests are for others."""

    reason: str


class Fatal(msgspec.Struct, frozen=True, tag="fatal"):
    """The engine cannot start or go on; kind "configuration" is the user's to mend, "internal" is ours."""

    kind: str
    message: str


FromEngine = (
    LoadProgress
    | Welcome
    | PinnedAdapters
    | ArtifactWanted
    | Deltas
    | Withdrawn
    | AdapterResult
    | Status
    | CacheReply
    | CacheChanges
    | AdapterMoves
    | SlotHistory
    | ProfileReply
    | Heartbeat
    | EngineLoad
    | Draining
    | Fatal
)
