"""The client and the OpenAPI document say the same: operations, parameters, types; the server answers those types."""

from __future__ import annotations

import asyncio
import inspect
import typing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.platform.registry.house import ADMIN, House, adapter_files, rejected_files, when_told

from multiflora import client as client_package
from multiflora.client import (
    AdapterPatch,
    AliasTarget,
    ApiProblem,
    AsyncClient,
    Client,
    KeyRotation,
    NewAdapter,
    NewKey,
    NewRollout,
    NewTenant,
    NewWebhook,
    RolloutPatch,
    TenantPatch,
)
from multiflora.client import operations as written
from multiflora_platform.client_source import TARGET, operations, source
from multiflora_platform.server.openapi import api_document

DOCUMENT = api_document()
OPERATIONS = {operation.name: operation for operation in operations(DOCUMENT)}


def test_the_file_is_what_the_document_makes() -> None:
    assert TARGET.read_text(encoding="utf-8") == source(), "run `make client`"


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_a_method_with_its_parameters_and_types(kind: type, name: str) -> None:
    operation, method = OPERATIONS[name], getattr(kind, name)
    signature = inspect.signature(method)
    wanted = [parameter.argument for parameter in operation.parameters] + (["body"] if operation.body else [])
    assert sorted(signature.parameters) == sorted(["self", *wanted])
    hints = typing.get_type_hints(method, vars(written))
    answer = hints["return"]
    assert (answer.__name__ if answer is not type(None) else "None") == operation.answer
    if operation.body:
        assert hints["body"].__name__ == operation.body
    for parameter in operation.parameters:
        default = signature.parameters[parameter.argument].default
        assert (default is inspect.Parameter.empty) == (parameter.default is None)
    assert inspect.iscoroutinefunction(method) == (kind is AsyncClient)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if OPERATIONS[name].answer != "None"])
def test_each_answers_type_is_the_documents(name: str) -> None:
    hints = typing.get_type_hints(getattr(Client, name), vars(written))
    (schema,), components = msgspec.json.schema_components(
        [hints["return"]], ref_template="#/components/schemas/{name}"
    )
    assert schema == {"$ref": f"#/components/schemas/{OPERATIONS[name].answer}"}
    for component, content in components.items():
        assert DOCUMENT["components"]["schemas"][component] == content


def test_all_bodies_can_be_imported_from_the_client() -> None:
    bodies = {operation.body for operation in OPERATIONS.values() if operation.body}
    assert bodies <= set(client_package.__all__)


async def test_a_whole_life_through_the_client(client: AsyncClient, house: House, tmp_path: Path) -> None:
    made = await client.create_adapter(NewAdapter(name="a", tags=["x"]))
    assert (made.name, made.tags) == ("a", ["x"])
    for seed in (1, 2):
        version = await client.upload("a", adapter_files(seed))
        assert (version.version, version.state) == (seed, "ready")
    archive = tmp_path / "adapter_config.json"
    archive.write_bytes(adapter_files(1)["adapter_config.json"])
    with pytest.raises(ApiProblem) as incomplete:
        await client.upload("a", {archive.name: archive})
    assert incomplete.value.status == 400
    assert [v.version for v in (await client.list_versions("a")).items] == [2, 1]
    assert (await client.get_version("a", "2")).digest == version.digest
    assert (await client.get_validation("a", "1")).rows
    alias = await client.get_alias("a", "default")
    assert alias.version == 1
    started = await client.start_rollout("a", "default", NewRollout(candidate=2, percent=10), if_match=alias.etag)
    assert started.state == "running"
    assert (await client.change_rollout("a", "default", RolloutPatch(percent=20))).percent == 20
    assert (await client.promote_rollout("a", "default")).state == "promoted"
    moved = await client.put_alias("a", "canary", AliasTarget(split={"1": 90, "2": 10}))
    assert moved.split == {"1": 90, "2": 10}
    assert (await client.get_alias_history("a", "default")).items[0].target == {"version": 2}
    assert (await client.change_adapter("a", AdapterPatch(description="new"))).description == "new"
    assert (await client.list_audit(limit=2)).next_page_token is not None
    assert (await client.list_events(limit=1)).items[0].type == "adapter.created"
    await client.delete_adapter("a")
    with pytest.raises(ApiProblem) as gone:
        await client.get_adapter("a")
    assert (gone.value.status, gone.value.type) == (404, "urn:multiflora:problem:adapter-not-found")


async def test_administration_through_the_client(client: AsyncClient, house: House) -> None:
    tenant = await client.create_tenant(NewTenant(name="acme", requests_per_minute=5))
    assert (await client.change_tenant("acme", TenantPatch(requests_per_minute=None))).requests_per_minute is None
    assert (await client.list_tenants()).items[0].id == tenant.id
    key = await client.create_key(NewKey(name="k", role="tenant", tenant="acme", scopes=["usage:read"]))
    rotated = await client.rotate_key(key.id, KeyRotation(overlap_seconds=0))
    assert rotated.rotated_from == key.id
    await client.revoke_key(rotated.id)
    assert [key.id for key in (await client.list_keys(tenant="acme")).items] == [key.id, rotated.id]
    usage = await client.get_usage(group_by=["tenant"])
    assert usage.items == []
    hook = await client.create_webhook(NewWebhook(url="http://127.0.0.1:9/", events=["alias.*"]))
    assert hook.secret.startswith("whsec_")
    assert (await client.test_webhook(hook.id)).state == "failed"
    assert (await client.list_deliveries(hook.id)).items[0].type == "webhook.test"
    await client.delete_webhook(hook.id)


async def test_the_server_answers_nothing_that_the_types_do_not_name(house: House) -> None:
    await house.adapter("a", 1)
    for path, kind in (
        ("/adapters/a", "Adapter"),
        ("/adapters/a/versions/1", "Version"),
        ("/adapters/a/versions/1/validation", "ValidationReport"),
        ("/adapters/a/aliases/default", "Alias"),
        ("/replicas", "ReplicaPage"),
        ("/events", "EventPage"),
        ("/audit", "AuditPage"),
    ):
        answer = (await house.admin.get(path)).json()
        assert set(answer) <= set(DOCUMENT["components"]["schemas"][kind]["properties"]), path
        assert set(answer) >= set(DOCUMENT["components"]["schemas"][kind]["required"]), path


async def test_rejections_carry_their_rows(client: AsyncClient, house: House) -> None:
    await client.create_adapter(NewAdapter(name="a"))
    with pytest.raises(ApiProblem) as rejected:
        await client.upload("a", rejected_files())
    assert rejected.value.status == 422
    assert rejected.value.document["rows"]


async def test_every_goes_through_all_pages(client: AsyncClient, house: House) -> None:
    for name in "abcde":
        await client.create_adapter(NewAdapter(name=name))
    assert [adapter.name async for adapter in client.every(client.list_adapters, limit=2)] == list("abcde")


async def test_following_events_continues_where_it_was_left(client: AsyncClient, house: House) -> None:
    for name in "ab":
        await client.create_adapter(NewAdapter(name=name))
    first = (await client.list_events()).items[0]

    async def follow() -> list[str | None]:
        return [event.adapter async for event in client.follow_events(after=first.id)]

    told = when_told(house, "b")
    following = asyncio.create_task(follow())
    await asyncio.wait_for(told.wait(), 30)
    house.registry.stop_feeds()  # the transport in memory answers when the feed has ended
    assert await following == ["b"]


def test_the_waiting_client_sends_the_same() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if request.url.path.endswith("/events"):
            data = b'id: 1\nevent: x\ndata: {"id":1,"type":"x","adapter":null,"at":"","payload":{}}\n\n'
            return httpx.Response(200, content=b": events\n\n" + data)
        if request.method == "DELETE":
            return httpx.Response(503, headers={"Retry-After": "5"}, content=b"busy")
        token = None if "page_token" in request.url.params else "t"
        items = [msgspec.to_builtins(ADAPTER)]
        return httpx.Response(200, content=msgspec.json.encode({"items": items, "next_page_token": token}))

    with Client("http://test/", ADMIN, transport=httpx.MockTransport(answer)) as client:
        assert [adapter.name for adapter in client.every(client.list_adapters, q="x y")] == ["a", "a"]
        assert [event.id for event in client.follow_events()] == [1]
        with pytest.raises(ApiProblem) as problem:
            client.delete_adapter("a/b")
    assert problem.value.retry_after == 5
    assert seen[0].url.params["q"] == "x y"
    assert seen[0].headers["authorization"] == f"Bearer {ADMIN}"
    assert seen[-1].url.raw_path == b"/api/v1/adapters/a%2Fb"


ADAPTER: Any = written.Adapter(
    name="a",
    description="",
    tags=[],
    demo_prompt=None,
    warmup_prompts=[],
    owner=None,
    aliases={},
    ready_versions=[],
    digests={},
    rank=None,
    created_at="",
    updated_at="",
    etag='""',
)
