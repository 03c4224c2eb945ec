"""A gateway around an engine that plays scripts: real tokenizer, routes and middleware, no model and no database."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any

import httpx
from fastapi import FastAPI

from multiflora_adapters.base_model import BaseModel, Site
from multiflora_adapters.kv_reach import KvReach
from multiflora_engine.process.cache_followers import CacheFollowers
from multiflora_engine.process.client import EngineUnavailable
from multiflora_engine.process.token_stream import TokenStream
from multiflora_engine.protocol.messages import (
    AdapterResult,
    CacheReply,
    EngineStats,
    EvictionForecast,
    ProfileReply,
    Ready,
    ResidencyReport,
    SlotEvent,
    SlotHistory,
    Status,
)
from multiflora_engine.protocol.requests import (
    EngineFailure,
    GenerateRequest,
    PositionLogprobs,
    TokenDelta,
    TokenLogprob,
)
from multiflora_platform.auth.account_problems import TenantNotFound
from multiflora_platform.auth.policies import Policy
from multiflora_platform.auth.principals import Principal
from multiflora_platform.auth.usage import AdapterRequests, Counts
from multiflora_platform.gateway.in_process import BackgroundTurns
from multiflora_platform.registry.changes.rollout_observations import Observations, RequestOutcome
from multiflora_platform.registry.changes.rollout_pairs import AskedPrompt
from multiflora_platform.registry.errors import (
    AdapterExists,
    AdapterNotFound,
    SourceNotFound,
    VersionRejected,
)
from multiflora_platform.registry.serving.base_links import BaseLink
from multiflora_platform.registry.snapshot.snapshot import AdapterShape, Resolved, RolloutEntry, ServedAdapter
from multiflora_platform.services import Services
from multiflora_platform.storage.outbox_follower import Follower
from multiflora_platform.text.tokenizer import Tokenizer

END = "<|end|>"
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
ADMIN, TENANT, OTHER = "mf-admin", "mf-tenant", "mf-other"
MAX_LEN = 256
BASE_DIGEST = "b" * 64


@dataclass
class FakeClient:
    """Answers every request with `reply`'s tokens, then the end token, one delta at a time.

    replies: of answer 0, answer 1, and so on, in place of `reply`. pace: seconds before each delta. failure: sent after
    `fail_after` tokens. hangs: no delta ever comes. device_seconds: of each delta. told: how many deltas came.
    predicted: tokens of a prediction that are accepted and rejected, told with each answer's first delta. vectors:
    of prompts whose embedding is not (3, 4).
    """

    tokenizer: Tokenizer
    reply: str = "Hello, wörld!"
    replies: tuple[str, ...] = ()
    pace: float = 0.0
    failure: EngineFailure | None = None
    fail_after: int = 0
    hangs: bool = False
    device_seconds: float = 0.0
    told: int = 0
    miss_reason: str = ""
    predicted: tuple[int, int] = (0, 0)
    vectors: dict[tuple[int, ...], tuple[float, float]] = field(default_factory=dict)
    evicted_tokens: int = 0
    ready: Ready | None = None
    stats: EngineStats = field(default_factory=EngineStats)
    requests: list[GenerateRequest] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    ended: list[tuple[str, int]] = field(default_factory=list)
    tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    cache_reply: CacheReply = field(default_factory=lambda: CacheReply(0))
    cache_calls: list[tuple[str, str]] = field(default_factory=list)
    cache_followers: CacheFollowers = field(default_factory=lambda: CacheFollowers(lambda message: None))
    # As a fleet of several uses a client.
    in_flight: int = 0
    is_draining: bool = False
    last_message: float = field(default_factory=time.monotonic)
    load: None = None
    num_requests: int = 0
    pinned: set[str] = field(default_factory=set)
    adapter_places: dict[str, str] = field(default_factory=dict)
    commands: list[tuple[str, str]] = field(default_factory=list)
    profiled: list[tuple[str, float]] = field(default_factory=list)
    profile_ends: asyncio.Event = field(default_factory=asyncio.Event)
    profile_reply: ProfileReply = field(default_factory=lambda: ProfileReply(0, trace=b"main;step 7\n"))
    adapter_result: AdapterResult = field(default_factory=lambda: AdapterResult(0))

    def generate(self, request: GenerateRequest) -> TokenStream:
        if self.ready is None:
            raise EngineUnavailable("engine_unavailable", "The engine is restarting.")
        self.requests.append(request)
        stream = TokenStream(self, request)
        self.tasks[request.id] = asyncio.get_running_loop().create_task(self._play(request, stream))
        return stream

    def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)
        self.tasks[request_id].cancel()

    abort_later = abort

    def end_sequence(self, request_id: str, index: int) -> None:
        self.ended.append((request_id, index))

    async def adapter(self, action: str, digest: str) -> AdapterResult:
        if self.ready is None:
            raise EngineUnavailable("engine_unavailable", "The engine is restarting.")
        self.commands.append((action, digest))
        return self.adapter_result

    def adapters_in_use(self) -> set[str]:
        return self.pinned

    def note_pin(self, action: str, digest: str) -> None:
        if action == "pin":
            self.pinned.add(digest)
        else:
            self.pinned.discard(digest)

    async def status(self) -> Status:
        if self.ready is None:
            raise EngineUnavailable("engine_unavailable", "The engine is restarting.")
        return Status(0, 1, self.stats, [ResidencyReport("d" * 64, "slot", False, 8, 100, 0, 0, 2.5, 16)])

    async def cache(self, action: str, hash: str = "", chain: bytes = b"", first: int = 0) -> CacheReply:
        self.cache_calls.append((action, hash))
        if self.ready is None:
            raise EngineUnavailable("engine_unavailable", "The engine is restarting.")
        return self.cache_reply

    async def profile(self, kind: str, seconds: float) -> ProfileReply:
        self.profiled.append((kind, seconds))
        await self.profile_ends.wait()
        if self.ready is None:
            raise EngineUnavailable("engine_dead", "The engine died.")
        return self.profile_reply

    async def slot_history(self) -> SlotHistory:
        forecasts = [EvictionForecast(8, []), EvictionForecast(16, ["d" * 64]), EvictionForecast(64, None)]
        return SlotHistory(0, [SlotEvent(5.0, "load", 0, "d" * 64, 0.75, 100)], forecasts)

    async def _play(self, request: GenerateRequest, stream: TokenStream) -> None:
        if self.hangs:
            return
        for index in range(request.params.num_sequences):
            await self._play_one(request, stream, index)

    async def _play_one(self, request: GenerateRequest, stream: TokenStream, index: int) -> None:
        params = request.params
        assert params.max_tokens is not None
        words = self.tokenizer.encode(self.replies[index] if self.replies else self.reply, False)
        ids = [*words, self.tokenizer.eos_token_id or 0][: params.max_tokens]
        if params.ignore_eos:
            ids = [words[i % len(words)] for i in range(params.max_tokens)]
        first: dict[str, Any] = {
            "cached_tokens": len(request.prompt_token_ids) // 2 if index == 0 else 0,
            "cache_write_tokens": len(request.prompt_token_ids) // 3,
            "queued_seconds": 0.25,
            "miss_reason": self.miss_reason,
            "evicted_tokens": self.evicted_tokens,
        }
        if request.prediction_token_ids:
            first["accepted_prediction_tokens"], first["rejected_prediction_tokens"] = self.predicted
        if params.prompt_logprobs is not None and index == 0:
            first["prompt_logprobs"] = [None, *(position(t, 0) for t in request.prompt_token_ids[1:])]
        if request.pooling is not None:
            vector = struct.pack("<2f", *self.vectors.get(tuple(request.prompt_token_ids), (3.0, 4.0)))
            stream.push(TokenDelta(request_id=request.id, embedding=vector, finish_reason="stop", **first))
            return
        if not ids:
            stream.push(TokenDelta(request_id=request.id, index=index, finish_reason="length", **first))
        for count, token_id in enumerate(ids, start=1):
            await asyncio.sleep(self.pace)
            if (request.id, index) in self.ended:
                return
            if self.failure is not None and count > self.fail_after:
                stream.fail(self.failure)
                return
            ends = token_id == self.tokenizer.eos_token_id and not params.ignore_eos
            reason = "stop" if ends else "length" if count == len(ids) else None
            self.told += 1
            stream.push(
                TokenDelta(
                    request_id=request.id,
                    index=index,
                    token_ids=[token_id],
                    logprobs=None if params.logprobs is None else [position(token_id, index)],
                    finish_reason=reason,
                    device_seconds=self.device_seconds,
                    **(first if count == 1 else {}),
                )
            )


def position(token_id: int, index: int) -> PositionLogprobs:
    """Answer 1 is likelier than answer 0, and so on; the alternative is the next token."""
    chosen = TokenLogprob(token_id, -2.0 / (index + 1), 1)
    return PositionLogprobs(chosen, [chosen, TokenLogprob(token_id + 1, -3.0, 2)])


class FakeRollouts:
    def __init__(self) -> None:
        self.seen = Observations()
        self.outcomes: list[tuple[int, RequestOutcome]] = []
        self.pairs: list[tuple[AskedPrompt, list[int], list[int]]] = []
        self.refusals = 0
        self.candidate: str | None = "c" * 64

    def observe(self, rollout: RolloutEntry, version: int, outcome: RequestOutcome) -> None:
        self.outcomes.append((version, outcome))

    def observe_pair(self, rollout: RolloutEntry, asked: Any, stable: Sequence[int], candidate: Sequence[int]) -> None:
        self.pairs.append((asked(), list(stable), list(candidate)))

    def observe_shadow_refusal(self, rollout: RolloutEntry) -> None:
        self.refusals += 1

    def observations(self, rollout: RolloutEntry) -> Observations:
        return self.seen

    def candidate_digest(self, rollout: RolloutEntry) -> str | None:
        return self.candidate


@dataclass
class FakeRegistry:
    digests: dict[str, str] = field(default_factory=lambda: {"sql": "d" * 64})
    database: Any = None
    follower: Any = field(default_factory=lambda: Follower(None))  # type: ignore[arg-type]  # never started
    rollouts: FakeRollouts = field(default_factory=FakeRollouts)
    splits: Any = field(default_factory=SimpleNamespace)
    shapes: dict[str, AdapterShape] = field(default_factory=dict)
    leased: list[str] = field(default_factory=list)
    stopped: bool = False
    notes: list[tuple[str, str]] = field(default_factory=list)
    commands: list[tuple[str, str]] = field(default_factory=list)
    first_use: Any = None
    num_snapshots: int = 1
    bases: list[str] = field(default_factory=list)
    artifact_cache: Any = field(
        default_factory=lambda: SimpleNamespace(bytes=0, fetches=0, fetched_bytes=0, evictions=0)
    )

    def resolve(self, model: str, user: str | None) -> Resolved | None:
        name, _, alias = model.partition("@")
        digest = self.digests.get(name)
        shape = self.shapes.get(name, AdapterShape())
        if not digest or alias not in ("", "3"):
            return None
        return Resolved(name, 3, digest, alias or "default", shape, base_digest=BASE_DIGEST)

    def why_missing(self, model: str, visible: Any, bases: Sequence[str]) -> str | None:
        return None

    def served(self) -> list[ServedAdapter]:
        return [
            ServedAdapter(n, {"canary": 2, "default": 3}, 3, d, 1_700_000_000, "", None, base_digest=BASE_DIGEST)
            for n, d in sorted(self.digests.items())
        ]

    @property
    def snapshot(self) -> SimpleNamespace:
        versions: dict[str, list[str]] = {}
        for name, digest in self.digests.items():
            versions.setdefault(digest, []).append(f"{name}@3")
        return SimpleNamespace(
            adapters={}, digests_on=self._digests_on, versions_by_digest=versions, kv_reach=self._kv_reach
        )

    def _digests_on(self, base_digest: str) -> frozenset[str]:
        return frozenset(self.digests.values() if base_digest == BASE_DIGEST else ())

    def _kv_reach(self, digest: str | None) -> KvReach:
        shapes = (self.shapes.get(name) for name, known in self.digests.items() if known == digest)
        return next((shape.kv_reach for shape in shapes if shape and shape.kv_reach), KvReach(digest))

    def base_of(self, digest: str) -> BaseModel:
        """Of another base model than the default one the layer is twice as wide."""
        width = 16 if digest == BASE_DIGEST else 32
        layers = (("model.layers.0.q", 8, width, 0), ("lm_head", 8, 99, None))
        sites = {name: Site(name, k, n, layer) for name, k, n, layer in layers}
        return BaseModel("base", "LlamaForCausalLM", digest, 1, sites)

    def require_free(self, names: Sequence[str]) -> None:
        if any(name in self.digests for name in names):
            raise AdapterExists("It is an adapter's name.")

    async def add_base(self, link: BaseLink, names: Sequence[str]) -> None:
        self.bases.append(link.base.digest)

    async def remove_base(self, digest: str, names: Sequence[str]) -> None:
        self.bases.remove(digest)

    @contextmanager
    def lease(self, digest: str) -> Iterator[None]:
        self.leased.append(digest)
        try:
            yield
        finally:
            self.leased.remove(digest)

    @property
    def adapters(self) -> SimpleNamespace:
        return SimpleNamespace(remove=self._remove)

    @property
    def engine(self) -> SimpleNamespace:
        return SimpleNamespace(command=self._command)

    async def _command(self, action: str, name: str, version: int | None, actor: str) -> None:
        self.commands.append((action, name))

    @property
    def paths(self) -> SimpleNamespace:
        return SimpleNamespace(register=self._register)

    async def _register(self, name: str, path: str, actor: str, load_inplace: bool = False) -> None:
        if name in self.digests and not load_inplace:
            raise AdapterExists("taken")
        if path == "/missing":
            raise SourceNotFound("There is no folder /missing.")
        if path == "/broken":
            raise VersionRejected("Rejected.", [{"severity": "error", "message": "rank 99 is too large"}], name, 1)
        self.digests[name] = "e" * 64

    async def _remove(self, name: str, actor: str) -> None:
        if self.digests.pop(name, None) is None:
            raise AdapterNotFound("none")

    async def note(self, actor: str, action: str, target: str) -> None:
        self.notes.append((action, target))

    def stop_feeds(self) -> None:
        self.stopped = True


class FakeRefusals(Counter[tuple[str, str]]):
    def count(self, tenant: str, cause: str) -> None:
        self[tenant, cause] += 1


class FakeLedger:
    """Keeps what is counted, by tenant and adapter, and of which keys it was."""

    def __init__(self) -> None:
        self.counted: dict[tuple[str | None, str | None], Counts] = {}
        self.keys: set[tuple[str | None, str]] = set()
        self.refusals = FakeRefusals()

    def row(self, tenant: str | None, adapter: str | None, key: str = "") -> Counts:
        self.keys.add((tenant, key))
        return self.counted.setdefault((tenant, adapter), Counts())

    async def by_adapter(self, since: date) -> dict[str | None, AdapterRequests]:
        """All of it was counted today."""
        today, found = datetime.now(UTC).date().isoformat(), Counter[str | None]()
        for (_, adapter), counts in self.counted.items():
            found[adapter] += counts.requests
        return {adapter: AdapterRequests({today: requests}) for adapter, requests in found.items()}


class FakeKeys:
    def __init__(self) -> None:
        self._principals = {
            ADMIN: Principal("admin", None, "k1"),
            TENANT: Principal("tenant", "acme", "k2", 1),
            OTHER: Principal("tenant", "other", "k3", 2),
        }

    def set_policy(self, key: str, **policy: Any) -> None:
        self._principals[key] = replace(self._principals[key], policy=Policy(**policy))

    def authenticate(self, header: str | None) -> Principal | None:
        return self._principals.get((header or "").removeprefix("Bearer "))

    def principal_of(self, tenant: str | None) -> Principal | None:
        return next((found for found in self._principals.values() if found.tenant == tenant), None)

    def cache_salt(self, principal: Principal) -> str:
        return f"salt-of-{principal.tenant}"

    cache_owner = cache_salt

    @property
    def tenants(self) -> SimpleNamespace:
        return SimpleNamespace(one=self._tenant, policy=self._policy)

    async def _tenant(self, name: str) -> SimpleNamespace:
        principal = self.principal_of(name)
        if principal is None:
            raise TenantNotFound(f"There is no tenant named {name!r}.")
        return SimpleNamespace(id=principal.tenant_id)

    async def _policy(self, name: str) -> Policy:
        principal = self.principal_of(name)
        assert principal is not None
        return principal.policy

    def cache_owners(self) -> dict[str, str | None]:
        return {"of-acme": "acme", "of-admins": None}


@dataclass
class House:
    """app: the application; engine: its engine's client."""

    services: Services
    engine: FakeClient
    registry: FakeRegistry
    supervisor: SimpleNamespace
    app: FastAPI
    http: httpx.AsyncClient

    @property
    def turns(self) -> BackgroundTurns:
        """New ones, as of a server that has just started."""
        return BackgroundTurns(self.app, self.engine)

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return await self.http.post(path, json=body, headers=headers)

    async def until(self, condition: Callable[[], Any]) -> None:
        """Raises TimeoutError when the condition does not become true."""
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.001)

    async def events(self, path: str, body: Any) -> list[Any]:
        """The stream's events; the last is "[DONE]" or an error."""
        response = await self.post(path, {**body, "stream": True})
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]


READY = Ready("cpu", "float32", 64, 16, MAX_LEN, 8, 4, 64, 1, 1)
