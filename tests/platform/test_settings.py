"""Settings: precedence, sources, clear errors, and a documentation page that names every one."""

from __future__ import annotations

from pathlib import Path

import pytest

from multiflora_platform.settings import (
    ENV_PREFIX,
    ConfigurationError,
    Settings,
    flag,
    load_settings,
    shown,
)

ROOT = Path(__file__).parents[2]


def test_command_line_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "multiflora.yaml"
    file.write_text("port: 1\nmax-loras: 2\nseed: 3\n", encoding="utf-8")
    settings, sources = load_settings({"port": "7"}, {"MULTIFLORA_PORT": "5", "MULTIFLORA_MAX_LORAS": "6"}, file)
    assert (settings.port, settings.max_loras, settings.seed, settings.block_size) == (7, 6, 3, 16)
    assert [sources[name] for name in ("port", "max_loras", "seed", "block_size")] == ["cli", "env", "file", "default"]


@pytest.mark.parametrize(
    ("cli", "environ", "names"),
    [
        ({"port": "70000"}, {}, ("--port", "65535")),
        ({}, {"MULTIFLORA_PORT": "tcp://10.0.0.1:80"}, ("MULTIFLORA_PORT", "tcp://10.0.0.1:80")),
        ({"dtype": "int3"}, {}, ("--dtype", "float32")),
        ({"lora_modules": ["sql"]}, {}, ("--lora-modules", "name=path")),
        ({"tensor_parallel_size": "2"}, {}, ("--tensor-parallel-size", "1")),
        ({"no_auth": True, "host": "0.0.0.0"}, {}, ("no_auth", "127.0.0.1")),
    ],
)
def test_a_bad_value_names_its_place_and_what_is_accepted(
    cli: dict[str, object], environ: dict[str, str], names: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(cli, environ)
    assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prot: 1", "unknown key prot"),
        ("- a\n- b", "must hold `key: value` lines"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "multiflora.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=message):
        load_settings({}, {}, file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read --config"):
        load_settings({}, {}, tmp_path / "none.yaml")


def test_lists_come_from_the_environment_and_the_file(tmp_path: Path) -> None:
    file = tmp_path / "multiflora.yaml"
    file.write_text("allow-source-root: [/a, /b]\n", encoding="utf-8")
    settings, _ = load_settings({}, {"MULTIFLORA_LORA_MODULES": "x=/x,y=/y"}, file)
    assert settings.lora_modules == ("x=/x", "y=/y")
    assert settings.allow_source_root == (Path("/a"), Path("/b"))


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented(name: str) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    description = Settings.model_fields[name].description
    assert f"| `{flag(name)}` | `{ENV_PREFIX}{name.upper()}` |" in page
    assert description is not None
    assert f"| {description} |" in page


def test_no_secret_is_shown() -> None:
    url = "postgresql://me:p@ss:word@host:5432/db"
    assert shown("database_url", url) == "postgresql://me:***@host:5432/db"
    assert shown("database_url", "sqlite+aiosqlite:////var/a@b.db") == "sqlite+aiosqlite:////var/a@b.db"
    assert "hush" not in shown("api_key", ("hush",))
    with pytest.raises(ConfigurationError) as caught:
        load_settings({}, {"MULTIFLORA_API_KEY": "hush", "MULTIFLORA_PORT": "x"})
    assert "hush" not in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings({"api_key": {"key": "hush"}}, {})
    assert "hush" not in str(caught.value)
