"""What is warmed for a tenant is what that tenant's requests find: by an admin's call, and before an alias moves."""

from __future__ import annotations

from typing import Any

import pytest
from tests.platform.gateway.background.conftest import BLOCK, RULES, ContextHouse

from multiflora_engine.cache.block_hashes import chain_of, prompt_hashes
from multiflora_platform.gateway.background.warming import PromptWarmer

SYSTEM = [{"role": "system", "content": RULES}]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


async def found_blocks(contexts: ContextHouse, model: str, **body: Any) -> tuple[int, int]:
    """Of a request of acme's: how many blocks were cached before it, of how many that could be."""
    before = contexts.cache._cached()
    question = {"role": "user", "content": "Hello"}
    asked = {"model": model, "max_tokens": 1, "messages": [*SYSTEM, question], **body}
    answer = await contexts.acme.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 200, answer.text
    request, registry = contexts.house.engine.requests[-1], contexts.registry.registry
    reach = registry.snapshot.kv_reach(request.adapter_digest)
    ids = request.prompt_token_ids
    chain = chain_of(prompt_hashes(registry.base.digest, reach, request.cache_salt, ids, BLOCK), len(ids), BLOCK)
    hashes = [chain[at : at + 32] for at in range(0, len(chain), 32)]
    return sum(one in before for one in hashes), len(hashes)


async def test_a_call_warms_several_models_for_a_tenant(contexts: ContextHouse) -> None:
    await contexts.registry.adapter("a", 1)
    body = {"model": "base", "adapters": ["a", "base"], "messages": SYSTEM, "tools": TOOLS, "tenant": "acme"}
    answer = await contexts.house.http.post("/api/v1/cache:warm", json=body)
    assert answer.status_code == 200, answer.text
    first, second = contexts.house.engine.requests
    assert answer.json()["cached_tokens"] + answer.json()["computed_tokens"] == 2 * len(first.prompt_token_ids)
    assert (first.adapter_digest, second.adapter_digest) == (None, contexts.registry.registry.adapter("a").digests[1])
    for model in ("base", "a"):
        found, possible = await found_blocks(contexts, model, tools=TOOLS)
        assert 0 < found >= possible - 1
    unknown = await contexts.house.http.post("/api/v1/cache:warm", json={**body, "adapters": ["a", "nobody"]})
    assert unknown.status_code == 404
    assert len(contexts.house.engine.requests) == 4, "nothing is computed where one is unknown"


async def test_an_adapter_warms_conversations_for_a_tenant(contexts: ContextHouse) -> None:
    await contexts.registry.adapter("a", 1)
    prompts = ["Hello", {"messages": SYSTEM, "tools": TOOLS, "tenant": "acme"}, {"prompt": "A text."}]
    changed = await contexts.registry.admin.patch("/adapters/a", json={"warmup_prompts": prompts})
    assert changed.status_code == 200, changed.text
    assert changed.json()["warmup_prompts"] == prompts
    services, entry = contexts.house.services, contexts.registry.registry.adapter("a")
    warmer = PromptWarmer(services.engine, services.model, contexts.registry.keys)
    await warmer.run(entry.digests[1], entry.warmup_prompts, entry.owner)
    assert len({request.cache_salt for request in contexts.house.engine.requests}) == 2
    found, possible = await found_blocks(contexts, "a", tools=TOOLS)
    assert 0 < found >= possible - 1
    other = await contexts.tenant("other")
    assert (await other.get("/api/v1/adapters/a")).json()["warmup_prompts"] == [prompts[0], prompts[2]]
    assert (await contexts.acme.get("/api/v1/adapters/a")).json()["warmup_prompts"] == prompts


@pytest.mark.parametrize(
    ("prompt", "status"),
    [
        ({"messages": SYSTEM, "tenant": "other"}, 403),
        ({"messages": SYSTEM, "prompt": "x"}, 400),
        ({"prompt": "x", "tools": TOOLS}, 400),
        ({"prompt": ""}, 400),
        ({"tenant": "acme"}, 400),
        ({"messages": []}, 400),
        ({"messages": [{"role": "user", "content": "x" * 20_000}]}, 400),
        ({"messages": [{"role": "user", "content": "a\0b"}]}, 400),
        ({"text": "x"}, 400),
        (7, 400),
    ],
)
async def test_what_a_tenants_adapter_may_not_warm(contexts: ContextHouse, prompt: Any, status: int) -> None:
    await contexts.tenant("other")
    body = {"name": "mine", "warmup_prompts": [prompt]}
    answer = await contexts.acme.post("/api/v1/adapters", json=body)
    assert answer.status_code == status, answer.text
    assert (await contexts.acme.get("/api/v1/adapters/mine")).status_code == 404
