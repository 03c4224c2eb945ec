"""What the routes of insight answer. Times are Unix seconds, durations seconds, sizes bytes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from multiflora_engine.protocol.messages import TierStats
from multiflora_engine.protocol.traced_request import TracedRequest
from multiflora_platform.engine import Placement
from multiflora_platform.observability.profiles import Profile
from multiflora_platform.prices import SavedMoney


class BaseGauges(msgspec.Struct, frozen=True):
    """The engines of one base model. engine_bytes: that their processes have now; None while there is none."""

    running: int
    waiting: int
    kv_blocks: int
    kv_blocks_used: int
    engine_bytes: int | None
    device_bytes: int | None


class Point(msgspec.Struct, frozen=True):
    """One interval. Rates are per second; quantiles are None when nothing happened. by_model: tokens per second.
    by_base: of each base model whose engines run; the other numbers are those of all of them together."""

    at: float
    tokens_per_second: float
    prompt_tokens_per_second: float
    ttft_p50: float | None
    ttft_p95: float | None
    itl_p50: float | None
    itl_p95: float | None
    running: int
    waiting: int
    kv_use: float
    """Of the base model whose cache is the fullest."""
    cache_hit_rate: float | None
    requests: int
    errors: int
    host_bytes: int
    """Of the gateway and the engines together: what their processes have now."""
    gateway_bytes: int
    engine_bytes: int | None
    """None while there is none."""
    device_bytes: int | None
    by_model: dict[str, float]
    evicted_tokens_per_second: float
    """Of the prompts' tokens, those computed again because their KV had been evicted."""
    cache_bytes: int
    """Of host_bytes, what caches hold by now, each within a bound of its own."""
    by_base: dict[str, BaseGauges]


class SeriesAnswer(msgspec.Struct, frozen=True):
    """points: oldest first, one for each interval (seconds) that the server was up."""

    interval: int
    points: list[Point]


class AdapterUse(msgspec.Struct, frozen=True):
    """Of one adapter (None: the base). requests: since the answer's `since`, of all servers on the database, as in the
    usage. The rest is this server's own, since its start: p95_seconds is about the last timed_answers whole answers."""

    adapter: str | None
    requests: int
    last_day: str | None
    """UTC, with requests; None for none since `since`."""
    last_used_at: float | None
    timed_answers: int
    p95_seconds: float | None
    tokens_per_second: float


class ActivityAnswer(msgspec.Struct, frozen=True):
    """since: the first day (UTC) whose requests are counted. speed_seconds: that tokens_per_second is the mean of."""

    since: str
    days: int
    speed_seconds: int
    items: list[AdapterUse]


class Alert(msgspec.Struct, frozen=True):
    """severity: warning or error. link: a path of the admin UI."""

    id: str
    severity: str
    title: str
    detail: str
    next_step: str
    since: float
    link: str


class AlertPage(msgspec.Struct, frozen=True):
    items: list[Alert]


class ProfilePage(msgspec.Struct, frozen=True):
    items: list[Profile]


class Stage(msgspec.Struct, frozen=True):
    """stage: queue, load, prefill or decode."""

    stage: str
    start: float
    end: float


class KeptBody(msgspec.Struct, frozen=True):
    """request: as it was read, with what was left out filled in. answers: their texts so far."""

    request: msgspec.Raw
    answers: list[str]


class RequestView(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt. status and code: as answered; None while it runs. miss_reason: see Miss. key_id: of the key that it
    came with; None where no valid key came."""

    id: str
    at: float
    tenant: str | None
    key_id: str | None
    model: str
    adapter: str | None
    version: int | None
    digest: str | None
    path: str
    stream: bool
    status: int | None
    code: str | None
    prompt_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    completion_tokens: int
    finish_reason: str | None
    queue_seconds: float | None
    load_seconds: float | None
    prefill_seconds: float | None
    decode_seconds: float | None
    ttft: float | None
    total_seconds: float | None
    device_seconds: float
    miss_reason: str
    timeline: list[Stage]
    count: int = 1
    """Requests that this stands for: refusals that are equal are one, with the last one's time."""
    placement: Placement | None = None
    """Which engine has it, and why; None where none does, and of a search with beams."""
    body: KeptBody | None = None


class RequestPage(msgspec.Struct, frozen=True):
    """Newest first."""

    items: list[RequestView]
    next_page_token: str | None
    cursor: str
    """For `since`: what changed after this answer."""
    is_complete: bool
    """False where only what changed since is here; True too where `since` was of another process."""


class CacheRun(msgspec.Struct, frozen=True, kw_only=True):
    """Successive cached blocks that were used alike. hash: of the last one. digest: of the version that
    computed them, None for the base. adapters: their names that have it. versions: the same as `name@number`; of a
    mix, its recipe. owner: the tenant, None for admins. replica: the engine that has it.
    """

    replica: str
    hash: str
    parent: str | None
    digest: str | None
    adapters: Sequence[str]
    versions: Sequence[str]
    owner: str | None
    tokens: int
    blocks: int
    bytes: int
    hits: int
    age_seconds: float
    idle_seconds: float
    pinned: bool
    referenced: bool


class Saving(msgspec.Struct, frozen=True):
    """What the cache spared one adapter (None: the base) since the start. tokens_again: had been cached, were evicted
    and computed again. device_seconds, seconds_again: of both, estimated from prefills. money: null where no prices are
    set."""

    adapter: str | None
    tokens: int
    device_seconds: float
    tokens_again: int
    seconds_again: float
    money: SavedMoney | None


class CacheAnswer(msgspec.Struct, frozen=True):
    blocks: int
    free: int
    cached: int
    block_size: int
    bytes_per_block: int
    hits_tokens: int
    queries_tokens: int
    evictions: int
    tiers: list[TierStats]
    savings: list[Saving]
    nodes: list[CacheRun]


class CacheEvent(msgspec.Struct, frozen=True):
    """type: stored, removed, or cleared, after which nothing is cached. hashes: of blocks; of stored ones each goes on
    where the one before it ends, and the first behind parent (None: a prompt begins with it; 16 digits, the parent's
    first, where that is not cached itself). tokens: in these blocks. adapter_digest, owner: as a run's, of stored ones.
    seq: of a part of a snapshot, the event's that it stands behind."""

    seq: int
    type: str
    hashes: list[str]
    parent: str | None
    tokens: int
    adapter_digest: str | None
    owner: str | None


class CacheEventPage(msgspec.Struct, frozen=True):
    """Oldest first. next_cursor: to go on with. is_continued: False where the items begin with `cleared` and all that
    is cached, because that was asked for, or because what came after the cursor is not kept any more."""

    items: list[CacheEvent]
    next_cursor: int
    is_continued: bool


class DriftItem(msgspec.Struct, frozen=True, kw_only=True):
    """Prompts that part over and over at one place. tenant: None for admins, and for what the chat template does.
    message, role: None in a text, and in the tools. position: the first character that changes, of the message's text,
    or of the prompt. share: of the tenant's prompts for the model, of the last hour (256 at most); prompts: how many.
    lost_tokens: of all of them, that would have been found without it. lost_seconds_per_minute: of the device,
    estimated."""

    tenant: str | None
    model: str
    message: int | None
    role: str | None
    position: int
    kind: str
    share: float
    prompts: int
    lost_tokens: int
    lost_seconds_per_minute: float
    example: str
    advice: str


class DriftPage(msgspec.Struct, frozen=True):
    """What costs most first."""

    items: list[DriftItem]


class CacheText(msgspec.Struct, frozen=True):
    token_ids: list[int]
    text: str


class Miss(msgspec.Struct, frozen=True):
    """reason: evicted, diverged, other_adapter, other_tenant, other_salt, whole_prompt_asked,
    engine_restarted, other_replica or first_seen; detail says it in words."""

    request_id: str
    at: float
    model: str
    prompt_tokens: int
    cached_tokens: int
    reason: str
    detail: str


class CacheTrace(msgspec.Struct, frozen=True):
    """items: of requests that ended since the trace was asked for last. lost: how many more there were. has_more: ask
    again at once."""

    items: list[TracedRequest]
    lost: int
    has_more: bool


class MissPage(msgspec.Struct, frozen=True):
    """Newest first."""

    items: list[Miss]


class SlotResident(msgspec.Struct, frozen=True):
    """A version on the device. names: of all adapters that have this content; none when it is no longer registered.
    versions: the same as `name@number`; of a mix, its recipe."""

    slot: int
    digest: str
    names: Sequence[str]
    versions: Sequence[str]
    rank: int
    bytes: int
    pinned: bool
    users: int
    idle_seconds: float


class SlotMoment(msgspec.Struct, frozen=True):
    """event: load (seconds: since it was wanted) or evict. names, versions: as a resident's."""

    at: float
    event: str
    slot: int
    digest: str
    names: Sequence[str]
    versions: Sequence[str]
    seconds: float
    bytes: int


class ReplicaSlots(msgspec.Struct, frozen=True):
    """replica: the engine's id. rows: rank rows of the pool. bytes: that the residents take."""

    replica: str
    pid: int
    slots: int
    rows: int
    bytes: int
    residents: list[SlotResident]
    timeline: list[SlotMoment]


class SlotsAnswer(msgspec.Struct, frozen=True):
    replicas: list[ReplicaSlots]


class CapacityAnswer(msgspec.Struct, frozen=True):
    """Whether what was asked about fits on the device as it is configured."""

    adapter_bytes: int
    rows_needed: int
    rows: int
    fits_adapters: bool
    kv_bytes: int
    blocks_needed: int
    blocks: int
    fits_context: bool
    advice: str


class SettingView(msgspec.Struct, frozen=True):
    """source: cli, env, file or default. value: secrets hidden."""

    name: str
    value: str
    source: str
    description: str


class SettingPage(msgspec.Struct, frozen=True):
    items: list[SettingView]


class DoctorRow(msgspec.Struct, frozen=True):
    check: str
    ok: bool
    detail: str
    next_step: str


class DoctorPage(msgspec.Struct, frozen=True):
    items: list[DoctorRow]


class WarmAnswer(msgspec.Struct, frozen=True):
    """Tokens of the prompt that were cached before, and that were computed now; of all its models and engines
    together."""

    cached_tokens: int
    computed_tokens: int


class FirstDifference(msgspec.Struct, frozen=True, kw_only=True):
    """Where two prompts part. token: its number, from 0. message, role: of the conversation asked about; None in a
    text, and where it is in no message, such as in the tools. before: what both have there; theirs, ours: what follows
    in the earlier prompt and in this one; some 40 characters each."""

    token: int
    message: int | None
    role: str | None
    before: str
    theirs: str
    ours: str


class CacheExplanation(msgspec.Struct, frozen=True, kw_only=True):
    """What the prefix cache has of a prompt, and why not more. lost_tokens: what an earlier request had computed, or
    would have if this one began as it did; lost_seconds: of the device, estimated. advice: the next step."""

    prompt_tokens: int
    cached_tokens: int
    first_difference: FirstDifference | None
    cause: str
    lost_tokens: int
    lost_seconds: float
    advice: str


class AuditedPrompt(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt, answered exactly and with reused documents. tokens: of the exact answer; agreed_tokens: the first
    ones, which both have. first_distance: between the log-probabilities that both give the exact answer's first token;
    distance: the mean over all tokens up to the first that differs. reused_tokens: of the prompt, that were not
    computed. error: why it could not be answered."""

    request: str
    tenant: str | None
    model: str
    prompt_tokens: int
    reused_tokens: int
    tokens: int
    agreed_tokens: int
    same_answer: bool
    first_distance: float
    distance: float
    error: str | None


class ReuseAudit(msgspec.Struct, frozen=True, kw_only=True):
    """How near approximate reuse comes to exact answers. known: prompts with reused documents that are kept; audited:
    of those, which were answered. agreement: of all tokens of exact answers, those before the first that differs.
    reused_share: of all prompts' tokens. Distances: medians over prompts. None where nothing was audited."""

    known: int
    audited: int
    same_answers: int
    agreement: float | None
    reused_share: float | None
    first_distance: float | None
    distance: float | None
    items: list[AuditedPrompt]
