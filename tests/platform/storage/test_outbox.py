"""Every mutation of /api/v1 leaves its event and its audit row in the transaction that makes it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import delete
from tests.platform.registry.house import House, OpenHouse, adapter_files
from tests.platform.registry.routes.test_operations import FakeEngine
from tests.platform.storage.outbox import watched

from multiflora_engine.protocol.messages import CacheReply
from multiflora_platform.server.openapi import api_document
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.migrations import upgrade
from multiflora_platform.storage.tables import AdapterRow

ANY = {"If-Match": "*"}
EVAL = "/adapters/a/evals/e"
CASES = {"cases": [{"prompt": "Say hello", "checks": [{"type": "contains", "text": "hello"}]}]}
ALIAS = "/adapters/a/aliases/default"


async def roll(house: House) -> None:
    await house.admin.post(f"{ALIAS}/rollout", json={"candidate": 2}, headers=ANY)


async def hook(house: House) -> str:
    return str((await house.admin.post("/webhooks", json={"url": "http://127.0.0.1:9/"})).json()["id"])


async def key(house: House) -> str:
    return (await house.keys.create_key("test", name="k", role="admin", tenant=None)).id


async def redeliver(house: House) -> httpx.Response:
    webhook = await hook(house)
    delivery = (await house.admin.post(f"/webhooks/{webhook}:test")).json()["id"]
    return await house.admin.post(f"/webhooks/{webhook}/deliveries/{delivery}:redeliver")


async def promoted(house: House) -> httpx.Response:
    await roll(house)
    return await house.admin.post(f"{ALIAS}/rollout:promote")


async def aborted(house: House) -> httpx.Response:
    await roll(house)
    return await house.admin.post(f"{ALIAS}/rollout:abort")


async def adjusted(house: House) -> httpx.Response:
    await roll(house)
    return await house.admin.patch(f"{ALIAS}/rollout", json={"percent": 5})


async def rolled_back(house: House) -> httpx.Response:
    await house.admin.put(ALIAS, json={"version": 2}, headers=ANY)
    return await house.admin.post(f"{ALIAS}:rollback")


async def unprotected(house: House) -> httpx.Response:
    await house.admin.post(f"{ALIAS}:protect")
    return await house.admin.post(f"{ALIAS}:unprotect")


async def unpinned(house: House) -> httpx.Response:
    return await house.admin.post("/adapters/a:unpin")


async def purged(house: House) -> httpx.Response:
    await house.admin.delete("/adapters/a/versions/2")
    return await house.admin.post("/adapters/a/versions/2:purge")


async def restored(house: House) -> httpx.Response:
    await house.admin.delete("/adapters/a/versions/2")
    return await house.admin.post("/adapters/a/versions/2:restore")


class StallingEngine(FakeEngine):
    """Never gets round to a probe once it is busy."""

    busy = False

    async def adapter(self, action: str, digest: str) -> Any:
        if action == "probe" and self.busy:
            await asyncio.Event().wait()
        return await super().adapter(action, digest)


async def cancelled(house: House) -> httpx.Response:
    house.engine.busy = True
    job = (await house.upload("a", adapter_files(3), headers={"Prefer": "respond-async"})).json()["job"]["id"]
    return await house.admin.post(f"/jobs/{job}:cancel")


async def with_eval(house: House, method: str, path: str = "", **options: Any) -> httpx.Response:
    await house.admin.put(EVAL, json=CASES)
    return await house.admin.request(method, EVAL + path, headers=ANY, **options)


async def cancelled_run(house: House) -> httpx.Response:
    run = (await with_eval(house, "POST", "/runs", json={"version": 1})).json()["id"]
    return await house.admin.post(f"/adapters/a/eval-runs/{run}:cancel")


async def steered(house: House, action: str) -> httpx.Response:
    async def cache(action: str, hash: str) -> CacheReply:
        return CacheReply(0)

    house.app.state.services.engine.cache = cache
    return await house.admin.post(f"/cache/{'0' * 64}:{action}")


# One successful call of each operation that changes something. The house has an adapter `a` of two versions.
CALLS: dict[str, Callable[[House], Awaitable[httpx.Response]]] = {
    "create_adapter": lambda house: house.admin.post("/adapters", json={"name": "b"}),
    "change_adapter": lambda house: house.admin.patch("/adapters/a", json={"tags": ["t"]}),
    "delete_adapter": lambda house: house.admin.delete("/adapters/a"),
    "load_adapter": lambda house: house.admin.post("/adapters/a:load"),
    "unload_adapter": lambda house: house.admin.post("/adapters/a:unload"),
    "pin_adapter": lambda house: house.admin.post("/adapters/a:pin"),
    "unpin_adapter": unpinned,
    "add_version": lambda house: house.upload("a", adapter_files(3)),
    "change_version": lambda house: house.admin.patch("/adapters/a/versions/2", json={"tags": ["t"]}),
    "delete_version": lambda house: house.admin.delete("/adapters/a/versions/2"),
    "restore_version": restored,
    "purge_version": purged,
    "cancel_job": cancelled,
    "put_alias": lambda house: house.admin.put("/adapters/a/aliases/x", json={"version": 1}),
    "delete_alias": lambda house: house.admin.delete(ALIAS, headers=ANY),
    "roll_back_alias": rolled_back,
    "protect_alias": lambda house: house.admin.post(f"{ALIAS}:protect"),
    "unprotect_alias": unprotected,
    "start_rollout": lambda house: house.admin.post(f"{ALIAS}/rollout", json={"candidate": 2}, headers=ANY),
    "change_rollout": adjusted,
    "promote_rollout": promoted,
    "abort_rollout": aborted,
    "create_tenant": lambda house: house.admin.post("/tenants", json={"name": "acme"}),
    "change_tenant": lambda house: house.admin.patch("/tenants/known", json={"priority": "low"}),
    "create_key": lambda house: house.admin.post("/keys", json={"name": "k", "role": "admin"}),
    "rotate_key": lambda house: with_id(house, key, "POST", "/keys/{}:rotate", json={}),
    "revoke_key": lambda house: with_id(house, key, "DELETE", "/keys/{}"),
    "create_webhook": lambda house: house.admin.post("/webhooks", json={"url": "http://127.0.0.1:9/"}),
    "change_webhook": lambda house: with_id(house, hook, "PATCH", "/webhooks/{}", json={"description": "x"}),
    "delete_webhook": lambda house: with_id(house, hook, "DELETE", "/webhooks/{}"),
    "rotate_webhook": lambda house: with_id(house, hook, "POST", "/webhooks/{}:rotate"),
    "test_webhook": lambda house: with_id(house, hook, "POST", "/webhooks/{}:test"),
    "redeliver": redeliver,
    "put_context": lambda house: house.admin.put("/contexts/c", json={"prompt": "x"}),
    "change_context": lambda house: with_context(house, "PATCH", json={"pin": False}),
    "delete_context": lambda house: with_context(house, "DELETE"),
    "put_eval": lambda house: house.admin.put(EVAL, json=CASES),
    "add_eval_case": lambda house: house.admin.post(f"{EVAL}/cases", json=CASES["cases"][0]),
    "change_eval": lambda house: with_eval(house, "PATCH", json={"description": "x"}),
    "delete_eval": lambda house: with_eval(house, "DELETE"),
    "run_eval": lambda house: with_eval(house, "POST", "/runs", json={"version": 1}),
    "cancel_eval_run": cancelled_run,
    "pin_cached": lambda house: steered(house, "pin"),
    "unpin_cached": lambda house: steered(house, "unpin"),
    "drop_cached": lambda house: steered(house, "drop"),
}


async def with_context(house: House, method: str, **options: Any) -> httpx.Response:
    await house.admin.put("/contexts/c", json={"prompt": "x"})
    return await house.admin.request(method, "/contexts/c", **options)


# They ask and compute; nothing is different afterwards that anybody set.
ASKING = {"ask_capacity", "audit_reuse", "explain_cache", "start_profile", "take_cache_trace", "warm_cache"}
# They need a model's files; base_models/test_kept_models.py has their rows.
OF_MODELS = {"load_model", "unload_model"}


async def with_id(
    house: House, made: Callable[[House], Awaitable[str]], method: str, path: str, **options: Any
) -> httpx.Response:
    return await house.admin.request(method, path.format(await made(house)), **options)


def test_every_mutation_is_called_here() -> None:
    changing = {
        operation["operationId"]
        for methods in api_document()["paths"].values()
        for method, operation in methods.items()
        if method != "get"
    }
    assert changing - ASKING - OF_MODELS == set(CALLS)


@pytest.mark.each_database
@pytest.mark.parametrize("name", CALLS)
async def test_a_mutation_leaves_its_event_and_its_audit_row(open_house: OpenHouse, name: str) -> None:
    house = await open_house(engine=StallingEngine())
    await house.adapter("a", 1, 2)
    await house.keys.tenants.create("test", "known")
    before = (await house.admin.get("/events", params={"limit": 1000})).json()["next_cursor"]
    with watched() as silent:
        response = await CALLS[name](house)
    assert response.is_success, response.text
    assert silent == []
    events = (await house.admin.get("/events", params={"cursor": before})).json()["items"]
    audit = (await house.admin.get("/audit", params={"limit": len(events)})).json()["items"]
    assert events
    assert [row["action"] for row in audit] == [item["type"] for item in reversed(events)]


async def test_a_silent_change_is_noticed(tmp_path: Path) -> None:
    upgrade(f"sqlite:///{tmp_path / 'x.db'}")
    database = Database.open(f"sqlite:///{tmp_path / 'x.db'}")

    async def row(change: Change) -> None:
        change.session.add(AdapterRow(name="x", description="", tags=[], created_at=change.now, updated_at=change.now))

    async def told(change: Change) -> None:
        change.session.add(AdapterRow(name="y", description="", tags=[], created_at=change.now, updated_at=change.now))
        change.record("adapter.created", "y")

    async def statement(change: Change) -> None:
        await change.session.execute(delete(AdapterRow))

    with watched() as silent:
        await database.write("test", told)
        assert silent == []
        await database.write("test", row)
        await database.write("test", statement)
        assert len(silent) == 2
    await database.close()
