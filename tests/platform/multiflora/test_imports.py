"""What importing the public face loads: a client needs neither a server, nor a database, nor an engine."""

from __future__ import annotations

import subprocess
import sys

import pytest

import multiflora

HEAVY = ["sqlalchemy", "starlette", "fastapi", "tokenizers", "torch", "numpy", "safetensors", "multiflora.llm"]


def loaded(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return set(ran.stdout.split())


def test_a_client_loads_nothing_of_a_server() -> None:
    modules = loaded("from multiflora.client import Client, AsyncClient, NewTenant, VersionSource")
    assert {"multiflora.client.transport", "msgspec"} <= modules
    assert modules.isdisjoint({*HEAVY, "httpx"})


def test_an_offline_model_loads_torch_only_when_it_is_made() -> None:
    modules = loaded("from multiflora import LLM, SamplingParams")
    assert "multiflora.llm" in modules
    assert "torch" not in modules


def test_every_public_name_is_there() -> None:
    for name in multiflora.__all__:
        assert getattr(multiflora, name).__name__ == name
    assert set(multiflora.__all__) <= set(dir(multiflora))
    with pytest.raises(AttributeError, match="'multiflora' has no attribute 'Nothing'"):
        _ = multiflora.Nothing  # type: ignore[attr-defined]
