"""Base models loaded and unloaded over HTTP while requests run; engines are scripted, files are not read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.platform.base_models.engines import Supervised
from tests.platform.gateway.conftest import make_house, tokenizer
from tests.platform.gateway.house import ADMIN, TENANT, FakeClient, FakeRegistry, House

from multiflora_adapters.base_model import BaseModel
from multiflora_platform.base_models import model_memory, service
from multiflora_platform.base_models.model_schemas import NewModel
from multiflora_platform.base_models.service import BaseModels
from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.replica import EngineReplica
from multiflora_platform.groups import Group, ServedModel
from multiflora_platform.registry.serving.base_links import BaseLink
from multiflora_platform.settings import ConfigurationError, Settings
from multiflora_platform.text.template_lint import TemplateFinding
from multiflora_platform.text.tokenizer import Tokenizer
from multiflora_platform.web.problems import Unavailable

__all__ = ["make_house", "tokenizer"]


class Kept:
    """Of the database: what is kept there, and its events as the registry's double has them."""

    def __init__(self, registry: FakeRegistry) -> None:
        self.models: dict[str, NewModel] = {}
        self.is_away = False
        self._registry = registry

    async def all(self) -> list[NewModel]:
        return list(self.models.values())

    async def keep(self, model: NewModel, actor: str) -> None:
        await self._tell(actor, "model.loading", model.name)
        self.models[model.name] = model

    async def forget(self, name: str, actor: str) -> None:
        await self._tell(actor, "model.unloading", name)
        self.models.pop(name, None)

    async def _tell(self, actor: str, action: str, name: str) -> None:
        if self.is_away:
            raise Unavailable("The database is away.")
        await self._registry.note(actor, action, name)


class Loading:
    """What stands in for files and processes. engine: of the model that is loaded; may_start: its process comes up."""

    def __init__(self, house: House, folder: Path, text: Tokenizer) -> None:
        self.house, self.folder, self.text = house, folder, text
        self.digests: dict[str, str] = {}
        self.engine = FakeClient(text, reply="From the second")
        self.supervised = Supervised(self.engine)
        self.kept = Kept(house.registry)
        self.models = house.app.state.models = BaseModels(house.services, self.kept)  # type: ignore[arg-type]

    async def restart(self) -> None:
        """A server on the same database, over the same engine."""
        services = self.house.services
        await self.models.close()
        for group in list(services.groups)[1:]:
            services.groups.remove(group)
        self.house.registry.bases.clear()
        self.models = self.house.app.state.models = BaseModels(services, self.kept)  # type: ignore[arg-type]
        await self.models.start()

    @property
    def folder_name(self) -> str:
        return str(self.folder)

    def open_model(self, settings: Settings) -> Any:
        if settings.model is None or "broken" in settings.model:
            raise ConfigurationError(f"{settings.model}: config.json is missing")
        if "cursed" in settings.model:
            raise OSError("Input/output error")
        (name,) = settings.served_model_name
        served = ServedModel(name, settings.model, self.text, self.text.vocab_size, 64, 0)
        base = BaseModel(name, "LlamaForCausalLM", self.digests.get(name, "c" * 64), 1, {})
        config = SimpleNamespace(folder=self.folder, dtype="float32")
        return SimpleNamespace(served=served, base=base, config=config)

    def make_group(self, services: Any, settings: Settings, opened: Any) -> tuple[Group, Fleet, BaseLink]:
        fleet = Fleet([EngineReplica(f"{opened.served.name}-0", self.supervised)])  # type: ignore[arg-type]
        grammars: Any = SimpleNamespace(close=lambda: asyncio.sleep(0))
        return Group(opened.served, opened.base.digest, fleet, grammars), fleet, BaseLink(opened.base)

    async def post(self, **more: Any) -> Any:
        return await self.house.post("/api/v1/models", {"name": "second", "source": self.folder_name, **more})

    async def row(self) -> Any:
        return (await self.house.http.get("/api/v1/models/second")).json()

    async def until(self, state: str) -> Any:
        async with asyncio.timeout(30):
            while (row := await self.row())["state"] != state:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.001)
        return row

    async def chat(self, model: str = "second", **more: Any) -> Any:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}
        return await self.house.post("/v1/chat/completions", body)


@pytest.fixture
async def loading(
    make_house: Callable[..., House], tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Loading]:
    house = make_house({"drain_timeout": 0.0, "device": "cpu"})
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(bytes(1 << 20))
    loading = Loading(house, folder, tokenizer)
    monkeypatch.setattr(service, "open_model", loading.open_model)
    monkeypatch.setattr(service, "make_group", loading.make_group)
    async with house.http:
        yield loading
    await loading.models.close()
    await house.services.grammars.close()


async def test_it_is_loaded_asked_listed_and_unloaded(loading: Loading) -> None:
    loading.supervised.gate.clear()
    made = await loading.post()
    assert (made.status_code, made.headers["location"]) == (202, "/api/v1/models/second")
    assert (made.json()["state"], made.json()["job"]["state"]) == ("loading", "running")
    # A request waits for it rather than being told that there is no such model.
    asked = asyncio.create_task(loading.chat())
    await asyncio.sleep(0)
    loading.supervised.gate.set()
    assert (await asked).json()["choices"][0]["message"]["content"] == "From the second"
    row = await loading.until("ready")
    assert (row["job"]["state"], row["is_default"], row["digest"]) == ("done", False, "c" * 64)
    assert row["replicas"] == [{"id": "second-0", "state": "ready"}]
    assert row["max_model_len"] == loading.engine.ready.max_model_len  # type: ignore[union-attr]
    listed = (await loading.house.http.get("/api/v1/models")).json()["items"]
    assert [(one["name"], one["is_default"]) for one in listed] == [("base", True), ("second", False)]
    assert loading.house.registry.bases == ["c" * 64]

    assert (await loading.house.http.delete("/api/v1/models/second")).status_code == 204
    assert loading.supervised.state == "stopped"
    assert loading.house.registry.bases == []
    assert (await loading.chat()).status_code == 404
    assert (await loading.house.http.get("/api/v1/models/second")).status_code == 404
    told = [action for action, _ in loading.house.registry.notes]
    assert told == ["model.loading", "model.loaded", "model.unloading", "model.unloaded"]


async def test_what_of_its_template_hurts_the_cache_is_logged_as_at_the_start(
    loading: Loading, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    finding = TemplateFinding("template_date", 7, "it writes the day", "Write none.", "Monday")
    monkeypatch.setattr(loading.text, "template_findings", [finding])
    await loading.post()
    await loading.until("ready")
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == ["Prefix cache of second: it writes the day. Write none."]


async def test_who_follows_the_cache_of_one_that_is_unloaded_is_let_go(loading: Loading) -> None:
    await loading.post()
    await loading.until("ready")
    services = loading.house.services
    group = services.groups.named("second")
    assert group is not None
    feed = services.insight.cache_feeds.of(group.engine.replicas[0])
    following = asyncio.create_task(_all(feed.follow(None, snapshot=True)))
    await loading.house.until(lambda: feed._listeners)
    assert (await loading.house.http.delete("/api/v1/models/second")).status_code == 204
    assert await asyncio.wait_for(following, 30)


async def _all(feed: AsyncIterator[Any]) -> list[Any]:
    return [events async for events in feed]


async def test_unloading_ends_what_outlasts_the_drain_with_a_typed_error_and_nothing_else(loading: Loading) -> None:
    await loading.post()
    await loading.until("ready")
    house = loading.house
    loading.engine.hangs, house.engine.pace = True, 0.005
    streams = [
        asyncio.create_task(house.events("/v1/completions", {"model": model, "prompt": "x", "max_tokens": 10}))
        for model in ("second", "base")
    ]
    whole = asyncio.create_task(loading.chat())
    await house.until(lambda: len(loading.engine.requests) == 2 and house.engine.told)
    assert (await loading.row())["in_flight"] == 2
    assert (await house.http.delete("/api/v1/models/second")).status_code == 204
    answer = await whole
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_unloaded")
    with pytest.raises(AssertionError, match="model_unloaded"):
        await streams[0]  # it had not begun: its status is the error's
    assert (await streams[1])[-1] == "[DONE]"


async def test_without_a_minimum_nothing_runs_until_the_first_request(loading: Loading) -> None:
    await loading.post(min_replicas=0, idle_seconds=5)
    row = await loading.until("idle")
    assert (row["job"]["state"], loading.supervised.starts) == ("done", 0)
    assert row["replicas"] == [{"id": "second-0", "state": "stopped"}]
    assert (await loading.chat()).status_code == 200
    assert ((await loading.row())["state"], loading.supervised.starts) == ("ready", 1)


async def test_too_little_memory_is_told_in_numbers_and_leaves_nothing(
    loading: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_memory, "available_host_memory", lambda: 5 << 20)
    refused = await loading.post(max_replicas=2, options={"kv_cache_memory": 2 << 20})
    problem = refused.json()
    assert (refused.status_code, problem["type"].rpartition(":")[2]) == (409, "not-enough-memory")
    mebibyte = 1 << 20
    numbers = {"needed_bytes": 6, "available_bytes": 5, "weights_bytes": 1, "kv_bytes": 2}
    assert {name: problem[name] for name in numbers} == {name: n * mebibyte for name, n in numbers.items()}
    assert problem["replicas"] == 2
    assert loading.house.registry.bases == []
    assert (await loading.post(options={"kv_cache_memory": 2 << 20})).status_code == 202


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ({"name": "base"}, 409, "There is a base model named 'base'"),
        ({"name": "sql"}, 409, "adapter"),
        ({"name": "a/b"}, 400, "not a valid name"),
        ({"name": ""}, 400, "not a valid name"),
        ({"source": "/broken/model"}, 400, "config.json is missing"),
        ({"source": "~nobody.has.this.name/model"}, 400, "cannot be a folder"),
        ({"source": "/" + "x" * 5000}, 400, "cannot be a folder"),
        ({"options": {"max_model_len": -1}}, 400, "max_model_len"),
        ({"options": {"max_lora_rank": 4}}, 400, "'max_lora_rank' is no option of one model"),
        ({"options": {"chat_template": "/etc/passwd"}}, 400, "'chat_template' is no option of one model in a request"),
        ({"options": None}, 400, "options"),
        ({"min_replicas": 2}, 400, "more than max_replicas"),
        ({"min_replicas": 0}, 400, "idle_seconds"),
        ({"max_replicas": 10**20}, 400, "max_replicas"),
        ({"idle_seconds": -1}, 400, "idle_seconds"),
        ({"colour": "red"}, 400, "colour"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(
    loading: Loading, body: dict[str, Any], status: int, told: str
) -> None:
    refused = await loading.post(**body)
    assert (refused.status_code, told in refused.text) == (status, True), refused.text
    assert len((await loading.house.http.get("/api/v1/models")).json()["items"]) == 1


async def test_the_same_name_or_the_same_files_are_refused_once_there(loading: Loading) -> None:
    assert [one.status_code for one in await asyncio.gather(loading.post(), loading.post())] == [202, 409]
    twin = await loading.post(name="third")
    assert (twin.status_code, "the same base model" in twin.text) == (409, True)
    default = await loading.house.http.delete("/api/v1/models/base")
    assert (default.status_code, "until the server ends" in default.text) == (409, True)
    assert (await loading.house.http.delete("/api/v1/models/none")).status_code == 404


async def test_a_start_that_fails_is_told_and_the_name_is_free_again(loading: Loading) -> None:
    loading.supervised.fails = True
    assert (await loading.post()).status_code == 202
    row = await loading.until("failed")
    assert row["job"] == {"id": row["job"]["id"], "state": "failed", "error": "no memory"}
    assert (await loading.chat()).status_code == 404
    loading.supervised.fails = False
    assert (await loading.post()).status_code == 202
    await loading.until("ready")


async def test_unloading_while_it_loads_ends_the_start(loading: Loading) -> None:
    loading.supervised.gate.clear()
    await loading.post()
    waiting = asyncio.create_task(loading.chat())
    await loading.house.until(lambda: loading.supervised.starts)
    assert (await loading.house.http.delete("/api/v1/models/second")).status_code == 204
    assert (await waiting).status_code == 503
    assert loading.supervised.state == "stopped"


async def test_what_was_added_is_there_after_a_restart_until_it_is_unloaded(loading: Loading) -> None:
    options = {"max_model_len": 32}
    await loading.post(options=options, min_replicas=0, idle_seconds=5)
    await loading.until("idle")
    await loading.restart()
    row = await loading.row()  # its files were read before the server serves
    assert (row["source"], row["options"], row["idle_seconds"]) == (loading.folder_name, options, 5)
    assert (await loading.chat()).json()["choices"][0]["message"]["content"] == "From the second"
    assert (await loading.house.http.delete("/api/v1/models/second")).status_code == 204
    await loading.restart()
    assert (await loading.house.http.get("/api/v1/models/second")).status_code == 404


async def test_one_that_cannot_be_loaded_again_says_why_and_the_others_are_served(loading: Loading) -> None:
    loading.kept.models = {
        "third": NewModel("third", "/broken/model"),
        "old": NewModel("old", loading.folder_name, {"no_such_option": 1}),
        "fourth": NewModel("fourth", "/cursed/model"),
        "fifth": NewModel("fifth", "~nobody.has.this.name/model"),
        "base": NewModel("base", loading.folder_name),
        "second": NewModel("second", loading.folder_name),
    }
    await loading.restart()
    await loading.until("ready")
    rows = (await loading.house.http.get("/api/v1/models")).json()["items"]
    assert [(row["name"], row["state"]) for row in rows] == [
        ("base", "ready"),
        ("third", "failed"),
        ("old", "failed"),
        ("fourth", "failed"),
        ("fifth", "failed"),
        ("second", "ready"),
    ]
    assert "config.json is missing" in rows[1]["job"]["error"]
    assert "'no_such_option' is no option" in rows[2]["job"]["error"]
    assert rows[3]["job"]["error"] == "OSError: Input/output error"
    assert (await loading.house.http.delete("/api/v1/models/third")).status_code == 204
    assert "third" not in loading.kept.models


async def test_while_the_database_is_away_nothing_changes(loading: Loading) -> None:
    loading.kept.is_away = True
    assert (await loading.post()).status_code == 503
    assert len((await loading.house.http.get("/api/v1/models")).json()["items"]) == 1
    assert loading.house.registry.bases == []
    loading.kept.is_away = False
    assert (await loading.post()).status_code == 202
    await loading.until("ready")
    loading.kept.is_away = True
    assert (await loading.house.http.delete("/api/v1/models/second")).status_code == 503
    assert (await loading.row())["state"] == "ready"
    assert (await loading.chat()).status_code == 200
    loading.kept.is_away = False
    assert (await loading.house.http.delete("/api/v1/models/second")).status_code == 204


async def test_what_cannot_be_noted_ends_no_model_that_serves(
    loading: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading.supervised.gate.clear()
    await loading.post()

    async def away(*arguments: Any) -> None:
        raise Unavailable("The database is away.")

    monkeypatch.setattr(loading.house.registry, "note", away)
    loading.supervised.gate.set()
    await loading.until("ready")
    assert (await loading.chat()).status_code == 200


async def test_a_load_that_fails_leaves_no_engine_though_the_database_is_away(
    loading: Loading, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*arguments: Any) -> None:
        raise Unavailable("The database is away.")

    monkeypatch.setattr(loading.house.registry, "remove_base", away)
    loading.supervised.fails = True
    await loading.post()
    assert (await loading.until("failed"))["job"]["error"] == "no memory"
    await loading.house.until(lambda: loading.supervised.stops)
    assert (await loading.chat()).status_code == 404


async def test_a_server_that_others_reach_reads_named_folders_alone(loading: Loading, tmp_path: Path) -> None:
    services = loading.house.services
    services.settings = services.settings.model_copy(update={"host": "0.0.0.0"})
    refused = await loading.post()
    assert (refused.status_code, "--allow-source-root" in refused.text) == (403, True)
    services.settings = services.settings.model_copy(update={"allow_source_root": (tmp_path,)})
    assert (await loading.post()).status_code == 202


async def test_base_models_are_an_admins(loading: Loading) -> None:
    for method, path in (("GET", "/models"), ("POST", "/models"), ("GET", "/models/base"), ("DELETE", "/models/base")):
        for key, status in ((TENANT, 403), ("wrong", 401)):
            headers = {"Authorization": f"Bearer {key}"}
            answer = await loading.house.http.request(method, f"/api/v1{path}", headers=headers, json={})
            assert answer.status_code == status
    assert ADMIN in str(loading.house.http.headers["authorization"])
