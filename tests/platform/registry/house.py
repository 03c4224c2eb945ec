"""A registry over a tiny base model, PEFT files made by hand, and an application with nothing but /api."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
from fastapi import FastAPI
from safetensors.numpy import save
from sqlalchemy import Engine

from multiflora_adapters.base_model import BaseModel, Site
from multiflora_adapters.store import ArtifactStore
from multiflora_engine.process.client import EngineClient
from multiflora_engine.protocol.messages import AdapterResult
from multiflora_platform.auth.budgets import Budgets
from multiflora_platform.auth.keys import KeyStore
from multiflora_platform.auth.limits.memory import MemoryLimits
from multiflora_platform.auth.usage import UsageLedger
from multiflora_platform.base_models.kept_models import KeptModels
from multiflora_platform.base_models.service import BaseModels
from multiflora_platform.contexts.service import Contexts
from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.replica import EngineReplica
from multiflora_platform.gateway.background.context_keeper import ContextKeeper
from multiflora_platform.groups import Group, Groups
from multiflora_platform.insight.insight import Insight
from multiflora_platform.registry.service import Registry
from multiflora_platform.registry.serving.base_links import BaseLink
from multiflora_platform.registry.serving.engine_link import EngineLink
from multiflora_platform.registry.serving.probe import Prober
from multiflora_platform.server.rest_api import router
from multiflora_platform.settings import Settings
from multiflora_platform.storage.connections import open_engine, private_folder
from multiflora_platform.storage.database import Database
from multiflora_platform.storage.migrations import upgrade
from multiflora_platform.storage.outbox_follower import Follower
from multiflora_platform.text.chat_template import ChatTemplates
from multiflora_platform.web import error_responses
from multiflora_platform.webhooks.service import Webhooks

ADMIN = "mf-admin-for-tests"
SITE = "model.layers.0.self_attn.q_proj"
Files = dict[str, bytes]
# Reads texts: a token for each byte. Has no chat template.
_BYTES = SimpleNamespace(
    encode=lambda text, special, most: list(text.encode()),
    beyond=lambda ids, size: None,
    templates=ChatTemplates({}),
    special_tokens={},
    template_findings=[],
)
_MODEL = {"name": "base", "root": "base", "names": ("base",), "known_as": str, "tokenizer": _BYTES, "vocab_size": 256}
# Evals stay queued.
_NO_RUNNER = SimpleNamespace(kick=lambda: None, stopped=lambda run: None)
_SCHEMA: list[bytes] = []
# The first of each kind of database.
_ENGINES: dict[str, Engine] = {}
# FastAPI reads the signatures of routes anew for each application that includes their router; all houses share these.
_ROUTES = FastAPI(openapi_url=None)
_ROUTES.include_router(router)


def base_model(digest: str = "b" * 64) -> BaseModel:
    return BaseModel("tiny", "LlamaForCausalLM", digest, 1, {SITE: Site(SITE, 8, 8, 0)})


def adapter_files(seed: int = 0, rank: int = 2, **config: Any) -> Files:
    """The two files of a PEFT adapter; another seed, another digest."""
    random = np.random.default_rng(seed)
    prefix = f"base_model.model.{SITE}"
    tensors = {
        f"{prefix}.lora_A.weight": random.standard_normal((rank, 8), dtype=np.float32),
        f"{prefix}.lora_B.weight": random.standard_normal((8, rank), dtype=np.float32),
    }
    document = {"peft_type": "LORA", "r": rank, "lora_alpha": 4, "target_modules": ["q_proj"], **config}
    return {"adapter_config.json": json.dumps(document).encode(), "adapter_model.safetensors": save(tensors)}


def rejected_files(seed: int = 0) -> Files:
    """A sound file with tensors that fit no module of the base."""
    files = adapter_files(seed)
    name = SITE.replace("q_proj", "x_proj")
    tensors = {f"base_model.model.{name}.lora_A.weight": np.full((2, 8), seed, np.float32)}
    return {**files, "adapter_model.safetensors": save(tensors)}


def write_folder(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def _provide_schema(database: Path) -> None:
    """Migrating once and copying saves each test a tenth of a second."""
    if not database.exists():
        with TemporaryDirectory() as folder:
            template = Path(folder) / "multiflora.db"
            if not _SCHEMA:
                upgrade(f"sqlite:///{template}")
                _SCHEMA.append(template.read_bytes())
        private_folder(database.parent)
        database.write_bytes(_SCHEMA[0])


def _open_database(url: str) -> Database:
    """With the schema. What SQLAlchemy compiles is the same for all databases of a kind: a session does it once, for a
    house runs a hundred different statements, most of them a few times."""
    opened = open_engine(url)
    engine = opened.sync_engine
    first = _ENGINES.setdefault(engine.dialect.name, engine)
    engine.dialect, engine._compiled_cache = first.dialect, first._compiled_cache
    return Database(opened)


class ProbedEngine:
    """Does as it is told; how far an adapter moves the logits is the prober's to say."""

    state = "ready"

    def __init__(self, prober: Prober) -> None:
        self._prober = prober

    def addressed(self, replica: str | None) -> ProbedEngine:
        return self

    async def adapter(self, action: str, digest: str) -> AdapterResult:
        return AdapterResult(1, None, await self._prober(digest) if action == "probe" else None)


class House:
    """One registry with its keys and an HTTP client, over a data folder that can be opened again."""

    def __init__(self, data: Path, database_url: str | None = None, **options: Any) -> None:
        """database_url: of a database with the schema; None: SQLite in the data folder. options: of Registry.open and,
        of its base model: base, max_rank, engine or prober, answer_eval, run_prompts."""
        self.data = data
        self.database_url = database_url or f"sqlite:///{data / 'multiflora.db'}"
        self.options = options
        self.max_rank = options.pop("max_rank", 8)
        self.base = options.pop("base", base_model())
        prober = options.pop("prober", None)
        self.engine = ProbedEngine(prober) if prober else options.pop("engine", None)
        asked = {name: options.pop(name) for name in ("answer_eval", "run_prompts") if name in options}
        self.link = BaseLink(self.base, EngineLink(self.engine) if self.engine else None, **asked)
        self.store = ArtifactStore(data / "artifacts")
        self.closed = False

    async def open(self) -> House:
        if self.database_url.startswith("sqlite"):
            _provide_schema(self.data / "multiflora.db")
        self.database = _open_database(self.database_url)
        self.follower = Follower(self.database)
        await self.follower.start()
        self.registry = await Registry.open(
            self.database,
            self.follower,
            self.store,
            self.link,
            self.max_rank,
            scratch=self.data / "incoming",
            **self.options,
        )
        self.keys = await KeyStore.open(self.database, self.follower, self.data, admin_keys=[ADMIN])
        self.app = FastAPI()
        self.usage = UsageLedger(self.registry.database)
        self.budgets = Budgets(self.database, self.usage, None)
        self.webhooks = Webhooks(self.registry.database, self.keys.secret, ["127.0.0.0/8"])
        engine = Fleet(
            [EngineReplica("0", SimpleNamespace(client=EngineClient(), state="starting", restarts=0, pid=None))]
        )
        self.contexts = await Contexts.open(self.database, self.follower)
        model = SimpleNamespace(**_MODEL, longest=lambda engine: 64)
        groups = Groups(Group(model, self.base.digest, engine, SimpleNamespace()))
        self.app.state.services = services = SimpleNamespace(
            registry=self.registry,
            keys=self.keys,
            usage=self.usage,
            budgets=self.budgets,
            webhooks=self.webhooks,
            engine=engine,
            insight=Insight(groups),
            settings=Settings(data_dir=self.data),
            setting_sources={},
            state=engine.state,
            is_ready=True,
            groups=groups,
            model=groups.default.model,
            contexts=self.contexts,
            limits=MemoryLimits(),
            sign_on=None,
        )
        self.app.state.keeper = ContextKeeper(services)
        self.app.state.models = BaseModels(services, KeptModels(self.database))
        self.app.state.evals = SimpleNamespace(process=None, runner=_NO_RUNNER)
        self.app.router.routes.extend(_ROUTES.router.routes)
        error_responses.install(self.app)
        self.admin = self.client(ADMIN)
        return self

    def client(self, key: str | None) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        transport = httpx.ASGITransport(app=self.app)
        return httpx.AsyncClient(transport=transport, base_url="http://test/api/v1", headers=headers)

    async def tenant(self, name: str) -> httpx.AsyncClient:
        await self.keys.tenants.create("test", name)
        return self.client((await self.keys.create_key("test", name="k", role="tenant", tenant=name)).key)

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        await self.webhooks.close()
        await self.contexts.close()
        await self.usage.close()
        await self.keys.close()
        await self.registry.close()
        await self.follower.close()
        await self.database.close()

    async def upload(self, name: str, files: Files, **options: Any) -> httpx.Response:
        parts = [("file", (file, data)) for file, data in files.items()]
        return await self.admin.post(f"/adapters/{name}/versions", files=parts, **options)

    async def adapter(self, name: str, *seeds: int) -> None:
        """An adapter with a ready version for each seed."""
        assert (await self.admin.post("/adapters", json={"name": name})).status_code == 201
        for seed in seeds:
            response = await self.upload(name, adapter_files(seed))
            assert response.status_code == 201, response.text

    async def etag(self, name: str, alias: str) -> str:
        return (await self.admin.get(f"/adapters/{name}/aliases/{alias}")).headers["etag"]


def when_told(house: House, adapter: str) -> asyncio.Event:
    """Set once the feed has read an event about this adapter: whoever follows gets it, even if the feed ends then."""
    feed, told = house.registry.feed, asyncio.Event()
    read = feed.page

    async def page(cursor: int, limit: int) -> list[dict[str, Any]]:
        events = await read(cursor, limit)
        if any(event["adapter"] == adapter for event in events):
            told.set()
        return events

    feed.page = page  # type: ignore[method-assign]
    return told


OpenHouse = Callable[..., Awaitable[House]]


@asynccontextmanager
async def opening(data: Path, database_url: str | None = None) -> AsyncIterator[OpenHouse]:
    """Gives a function that opens a registry over folder and database, with House's options; all are closed after."""
    houses: list[House] = []

    async def make(**options: Any) -> House:
        house = await House(data, database_url, **options).open()
        houses.append(house)
        return house

    yield make
    for house in reversed(houses):
        await house.close()
