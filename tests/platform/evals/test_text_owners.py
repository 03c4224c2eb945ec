"""No tenant's text goes into evals that another reads, whoever puts it there and wherever the server keeps it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from tests.platform.evals.conftest import EvalHouse
from tests.platform.registry.house import House as RegistryHouse
from tests.platform.registry.house import adapter_files

from multiflora_platform.insight.kept_bodies import KeptBodies
from multiflora_platform.registry.changes.rollout_pairs import AskedPrompt, KeptPairs
from multiflora_platform.registry.snapshot.snapshot import RolloutEntry

SECRET = {"prompt": "Our margin is 40%, and?"}
CONVERSATION = {"messages": [{"role": "user", "content": "Who leaves us?"}, {"role": "user", "content": "And why?"}]}
CHECKS = {"checks": [{"type": "contains", "text": "x"}]}


async def owned(registry: RegistryHouse) -> tuple[httpx.AsyncClient, httpx.AsyncClient]:
    """Clients of two tenants, of which the first owns the adapter `mine`."""
    acme, other = await registry.tenant("acme"), await registry.tenant("other")
    assert (await acme.post("/adapters", json={"name": "mine"})).status_code == 201
    return acme, other


def keep_bodies(evals: EvalHouse) -> None:
    """Both applications of the house are one server."""
    evals.house.services.insight.bodies = evals.registry.app.state.services.insight.bodies = KeptBodies()


async def add(client: httpx.AsyncClient, question: dict[str, Any], adapter: str = "mine") -> httpx.Response:
    return await client.post(f"/adapters/{adapter}/evals/smoke/cases", json={**question, **CHECKS})


async def ask(evals: EvalHouse, client: httpx.AsyncClient, question: dict[str, Any]) -> None:
    path = "chat/completions" if "messages" in question else "completions"
    headers = {"Authorization": client.headers["authorization"]}
    response = await evals.http.post(f"/v1/{path}", json={"model": "sql", **question}, headers=headers)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("question", [SECRET, CONVERSATION], ids=["prompt", "messages"])
async def test_an_admin_cannot_pass_on_what_another_tenant_asked(evals: EvalHouse, question: dict[str, Any]) -> None:
    acme, other = await owned(evals.registry)
    keep_bodies(evals)
    await ask(evals, other, question)
    refused = await add(evals.registry.admin, question)
    assert refused.status_code == 403
    assert "another tenant's text" in refused.json()["detail"]
    replaced = await evals.registry.admin.put("/adapters/mine/evals/smoke", json={"cases": [{**question, **CHECKS}]})
    assert replaced.status_code == 403
    assert (await add(evals.registry.admin, question, "sql")).status_code == 201, "admins alone read those"
    assert (await add(acme, question)).status_code == 201, "a tenant has it from itself, and learns nothing of others"
    await ask(evals, acme, question)
    changed = {"cases": [{**question, **CHECKS, "name": "ours, too"}]}
    headers = {"If-Match": "*"}
    put = await evals.registry.admin.put("/adapters/mine/evals/smoke", json=changed, headers=headers)
    assert put.status_code == 200


async def test_a_prompt_that_stands_there_already_stays(evals: EvalHouse) -> None:
    acme, other = await owned(evals.registry)
    keep_bodies(evals)
    await add(acme, SECRET)
    await ask(evals, other, SECRET)
    case = {**SECRET, "checks": [{"type": "contains", "text": "better"}]}
    put = await evals.registry.admin.put(
        "/adapters/mine/evals/smoke", json={"cases": [case]}, headers={"If-Match": "*"}
    )
    assert put.status_code == 200


async def test_pairs_of_a_rollout_are_no_way_round(evals: EvalHouse) -> None:
    await owned(evals.registry)
    pairs = evals.registry.registry.rollouts.pairs = KeptPairs()
    asked = AskedPrompt("other", SECRET, 16, [], lambda ids: bytes(ids).decode())
    pairs.add(RolloutEntry(1, "sql", 1, 2, 0, 100, {}), asked, b"yes", b"no")
    assert (await add(evals.registry.admin, SECRET)).status_code == 403
    assert (await add(evals.registry.admin, {"prompt": "Anything else?"})).status_code == 201


@pytest.mark.parametrize("question", [SECRET, CONVERSATION], ids=["prompt", "messages"])
async def test_evals_that_come_with_a_version_follow_the_same_rule(evals: EvalHouse, question: dict[str, Any]) -> None:
    """They stand in the version's record, which whoever may use the adapter reads."""
    acme, other = await owned(evals.registry)
    keep_bodies(evals)
    await ask(evals, other, question)

    async def register(client: httpx.AsyncClient, adapter: str) -> tuple[int, str]:
        metadata = json.dumps({"evals": [{**question, "matches": ["."]}]})
        parts = [("file", (name, data)) for name, data in adapter_files(7).items()]
        path = f"/adapters/{adapter}/versions"
        answer = await client.post(path, files=parts, data={"metadata": metadata}, headers={"Prefer": "wait=0"})
        return answer.status_code, answer.text

    status, text = await register(evals.registry.admin, "mine")
    assert (status, "another tenant's text" in text) == (403, True)
    status, text = await register(evals.registry.admin, "sql")
    assert (status, "read by whoever may use it" in text) == (403, True)
    source = {"source": "hf://a/b@c", "evals": [{**question, "matches": ["."]}]}
    assert (await evals.registry.admin.post("/adapters/mine/versions", json=source)).status_code == 403
    assert (await acme.get("/adapters/mine/versions")).json()["items"] == []
    status, _ = await register(acme, "mine")
    assert status != 403, "a tenant has it from itself"
