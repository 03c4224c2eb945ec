"""What a server knows of its base model before anything runs: its names, and what the engine is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multiflora_platform.base_models.opening import engine_config, open_model
from multiflora_platform.settings import Settings

DEMO = Path(__file__).parents[3] / "examples" / "demo" / "base"


@pytest.mark.parametrize(
    ("settings", "names", "path"),
    [
        ({}, ("multiflora-demo",), None),
        ({"model": str(DEMO)}, ("base",), str(DEMO)),
        ({"model": str(DEMO), "served_model_name": ("one", "two")}, ("one", "two"), None),
    ],
)
def test_what_clients_may_call_the_base(settings: dict[str, Any], names: tuple[str, ...], path: str | None) -> None:
    served = open_model(Settings(**settings)).served
    assert (served.names, served.path) == (names, path)
    assert served.known_as(names[-1]) == names[0]
    assert served.known_as("another") == "another"
    assert served.known_as(f"{names[-1]}:sql@2") == "sql@2"
    assert served.known_as("another:sql") == "another:sql"
    assert served.known_as(f"{names[0]}:") == f"{names[0]}:"


def test_a_relative_folder_without_a_slash_is_no_second_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter could have it."""
    monkeypatch.chdir(DEMO.parent)
    assert open_model(Settings(model="base", served_model_name=("x",))).served.known_as("base") == "base"
    assert open_model(Settings(model="base")).served.path is None


def test_without_adapters_the_engine_keeps_room_for_the_least_and_the_demo_brings_none(tmp_path: Path) -> None:
    on, off = (Settings(enable_lora=enable_lora) for enable_lora in (True, False))
    assert engine_config(on, open_model(on), tmp_path).max_loras == 8
    config = engine_config(off, open_model(off), tmp_path)
    assert (config.max_loras, config.max_cpu_loras) == (1, 1)
    assert open_model(on).demo
    assert not open_model(off).demo


def test_the_engine_gets_the_tokenizer_that_was_asked_for(tmp_path: Path) -> None:
    settings = Settings(model=str(DEMO), tokenizer=str(DEMO))
    config = engine_config(settings, open_model(settings), tmp_path)
    assert config.tokenizer is not None
    assert config.tokenizer.startswith("{")
