"""What a request is told while an adapter is registered for it, and when it cannot be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.platform.gateway.house import FakeRegistry, House

from multiflora_platform.auth.principals import Principal
from multiflora_platform.registry.errors import SourceIncomplete, SourceRefused, SourceUnreachable, VersionRejected

ROWS = [{"severity": "info", "message": "fine"}, {"severity": "error", "message": "rank 99 is too large"}]


@dataclass
class ScriptedFirstUse:
    """Brings what `has` names, or raises."""

    registry: FakeRegistry
    has: tuple[str, ...] = ()
    error: Exception | None = None
    asked: list[tuple[str, float]] = field(default_factory=list)

    async def bring(self, model: str, principal: Principal, seconds: float) -> None:
        self.asked.append((model, seconds))
        if self.error is not None:
            raise self.error
        if model in self.has:
            self.registry.digests[model] = "f" * 64


def resolving(house: House, *has: str, error: Exception | None = None) -> ScriptedFirstUse:
    house.registry.first_use = first_use = ScriptedFirstUse(house.registry, has, error)
    return first_use


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 4}),
        ("/v1/responses", {"input": "a"}),
        ("/v1/embeddings", {"input": "a"}),
    ],
)
async def test_the_first_request_is_answered_by_what_it_brings(house: House, path: str, body: dict) -> None:
    first_use = resolving(house, "new")
    response = await house.post(path, {"model": "new", **body})
    assert response.status_code == 200, response.text
    assert house.engine.requests[-1].adapter_digest == "f" * 64
    await house.post(path, {"model": "new", **body})
    await house.post(path, {"model": "base", **body})
    assert len(first_use.asked) == 1
    assert "new" in [card["id"] for card in (await house.http.get("/v1/models")).json()["data"]]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"prompt": "a"}),
        ("/detokenize", {"tokens": [5]}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "a"}]}),
        ("/v1/models/new", None),
    ],
)
async def test_a_request_that_generates_nothing_is_a_first_use_too(house: House, path: str, body: dict | None) -> None:
    async def ask() -> Any:
        return await (house.http.get(path) if body is None else house.post(path, {"model": "new", **body}))

    first_use = resolving(house)
    assert (await ask()).status_code == 404
    resolving(house, error=VersionRejected("Rejected.", ROWS, "new", 1))
    refused = await ask()
    assert refused.status_code == 400
    assert "rank 99 is too large" in refused.text
    first_use = resolving(house, "new")
    assert (await ask()).status_code == 200
    assert (await ask()).status_code == 200
    assert [name for name, _ in first_use.asked] == ["new"]


async def test_parts_of_a_mix_and_the_form_with_the_base(house: House) -> None:
    first_use = resolving(house, "a", "b")
    body = {"model": "base", "prompt": "a", "adapters": [{"name": "a", "weight": 1.0}]}
    assert (await house.post("/v1/completions", body)).status_code == 200
    assert (await house.post("/v1/completions", {"model": "base:b", "prompt": "a"})).status_code == 200
    assert [name for name, _ in first_use.asked] == ["a", "b"]


@pytest.mark.parametrize(
    ("error", "status", "code", "said"),
    [
        (TimeoutError(), 503, "adapter_loading", "try again"),
        (VersionRejected("Rejected.", ROWS, "new", 1), 400, "adapter_rejected", "rank 99 is too large"),
        (SourceIncomplete("adapter_model.safetensors missing"), 400, "adapter_rejected", "safetensors missing"),
        (SourceRefused("/secret is not below"), 400, "adapter_rejected", "may not be read"),
        (SourceUnreachable("the hub is away"), 503, "adapter_unavailable", "the hub is away"),
    ],
)
async def test_what_a_request_is_told(house: House, error: Exception, status: int, code: str, said: str) -> None:
    resolving(house, error=error)
    response = await house.post("/v1/completions", {"model": "new", "prompt": "a"})
    told = response.json()["error"]
    assert (response.status_code, told["code"]) == (status, code)
    assert said in told["message"]
    assert "/secret" not in told["message"]
    assert ("retry-after" in response.headers) == (status == 503)


async def test_it_waits_within_the_request_s_deadline(house: House) -> None:
    first_use = resolving(house)
    body = {"model": "new", "prompt": "a"}
    assert (await house.post("/v1/completions", body, **{"X-Request-Timeout": "2"})).status_code == 404
    assert (await house.post("/v1/completions", body)).status_code == 404
    (_, short), (_, long) = first_use.asked
    assert short <= 2 < long <= house.services.settings.adapter_timeout
