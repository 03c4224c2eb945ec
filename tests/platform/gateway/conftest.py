"""A house for each test; `make_house` for tests that choose its settings."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from tests.platform.gateway.house import (
    ADMIN,
    BASE_DIGEST,
    END,
    MAX_LEN,
    READY,
    TEMPLATE,
    FakeClient,
    FakeKeys,
    FakeLedger,
    FakeRegistry,
    House,
)
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers

from multiflora_platform.auth.limits.memory import MemoryLimits
from multiflora_platform.contexts.service import Contexts
from multiflora_platform.fleet.fleet import Fleet
from multiflora_platform.fleet.replica import EngineReplica
from multiflora_platform.gateway.explaining.placing import readers
from multiflora_platform.groups import Group, Groups, ServedModel
from multiflora_platform.insight.drift.drift import Drift
from multiflora_platform.insight.insight import Insight
from multiflora_platform.observability.metrics import Metrics
from multiflora_platform.registry.shadow_runs import Shadows
from multiflora_platform.server.app import create_app
from multiflora_platform.services import Services
from multiflora_platform.settings import Settings
from multiflora_platform.structured.compiler import GrammarCompiler
from multiflora_platform.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One token for each byte, and the demo's special tokens after them."""
    folder = tmp_path_factory.mktemp("tokenizer")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    rust = RustTokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens([END, "<|system|>", "<|user|>", "<|assistant|>"])
    rust.save(str(folder / "tokenizer.json"))
    config = {"eos_token": END, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return Tokenizer.load(folder)


@pytest.fixture(scope="session")
def other_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """The same letters under other ids, and another template, which makes more of a system message."""
    folder = tmp_path_factory.mktemp("other-tokenizer")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=True)
    rust = RustTokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens([END])
    rust.save(str(folder / "tokenizer.json"))
    rules = "{% if message['role'] == 'system' %}Rules: {% endif %}"
    template = f"{{% for message in messages %}}[{rules}{{{{ message['content'] }}}}]{{% endfor %}}"
    config = {"eos_token": END, "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return Tokenizer.load(folder)


@pytest.fixture
def make_house(tokenizer: Tokenizer, tmp_path: Path) -> Callable[..., House]:
    def make(settings: dict[str, Any] | None = None, **defaults: Any) -> House:
        engine, registry = FakeClient(tokenizer, ready=READY), FakeRegistry()
        supervisor = SimpleNamespace(client=engine, state="ready", restarts=2, pid=os.getpid())
        handle = Fleet([EngineReplica("0", supervisor)])
        model = ServedModel("base", "org/base", tokenizer, tokenizer.vocab_size, MAX_LEN, 1_600_000_000, defaults)
        grammars = GrammarCompiler(tokenizer, tokenizer.vocab_size, frozenset({tokenizer.eos_token_id or 0}))
        groups = Groups(Group(model, BASE_DIGEST, handle, grammars))
        services = Services(
            settings=Settings(data_dir=tmp_path, **(settings or {})),
            groups=groups,
            registry=registry,
            keys=FakeKeys(),
            metrics=Metrics("base"),
            limits=MemoryLimits(),
            usage=FakeLedger(),
            budgets=SimpleNamespace(),
            shadows=Shadows(registry.rollouts, registry.lease),
            webhooks=SimpleNamespace(),
            insight=Insight(groups, drift=Drift(readers(groups))),
            contexts=Contexts(SimpleNamespace()),
        )
        app = create_app(services)
        http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://localhost",
            headers={"Authorization": f"Bearer {ADMIN}"},
        )
        return House(services, engine, registry, supervisor, app, http)

    return make


@pytest.fixture
async def house(make_house: Callable[..., House]) -> AsyncIterator[House]:
    house = make_house()
    async with house.http:
        yield house
    await house.services.grammars.close()
