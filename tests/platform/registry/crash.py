"""Run by test_recovery.py: uploads one version and kills itself, as `kill -9` does, at the given point."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from multiflora_adapters.base_model import BaseModel, Site
from multiflora_adapters.store import ArtifactStore
from multiflora_platform.registry import ingest, versions
from multiflora_platform.registry.catalog import AdapterFields
from multiflora_platform.registry.service import Registry

SITE = "model.layers.0.self_attn.q_proj"


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying_before(function: Any) -> Any:
    return die


def dying_after(function: Any) -> Any:
    def wrapped(*arguments: Any) -> None:
        function(*arguments)
        die()

    return wrapped


async def main(data: Path, source: Path, point: str) -> None:
    store = ArtifactStore(data / "artifacts")
    base = BaseModel("tiny", "LlamaForCausalLM", "b" * 64, 1, {SITE: Site(SITE, 8, 8, 0)})
    registry = await Registry.open(
        f"sqlite:///{data / 'multiflora.db'}", store, base, 8, scratch=data / "incoming", source_roots=[source]
    )
    await registry.adapters.create("a", AdapterFields(), "test")
    match point:
        case "validating":
            ingest.validate_adapter = dying_before(ingest.validate_adapter)
        case "storing":
            os.rename = dying_before(os.rename)
        case "stored":
            store.add = dying_after(store.add)  # type: ignore[method-assign]
        case "recording":
            versions._settle = dying_after(versions._settle)
        case "recorded":
            registry._live.swap = die  # type: ignore[method-assign]
    await registry.versions.add_source("a", f"file://{source}", "test", key="k")


asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
