"""Configuration: precedence, sources, clear errors, vLLM's names in each place that a setting may come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from multiflora_platform.configuration import configure
from multiflora_platform.settings import ConfigurationError


def test_command_line_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "multiflora.yaml"
    file.write_text("port: 1\nmax-loras: 2\nseed: 3\n", encoding="utf-8")
    found = configure({"port": "7"}, {"MULTIFLORA_PORT": "5", "MULTIFLORA_MAX_LORAS": "6"}, file)
    assert (found.settings.port, found.settings.max_loras, found.settings.seed, found.settings.block_size) == (
        7,
        6,
        3,
        16,
    )
    assert [found.sources[name] for name in ("port", "max_loras", "seed", "block_size")] == [
        "cli",
        "env",
        "file",
        "default",
    ]


@pytest.mark.parametrize(
    ("cli", "environ", "names"),
    [
        ({"port": "70000"}, {}, ("--port", "65535")),
        ({}, {"MULTIFLORA_PORT": "tcp://10.0.0.1:80"}, ("MULTIFLORA_PORT", "tcp://10.0.0.1:80")),
        ({"dtype": "int3"}, {}, ("--dtype", "float32")),
        ({"lora_modules": ["sql"]}, {}, ("--lora-modules", "name=path")),
        ({"prefill_context_parallel_size": "2"}, {}, ("--prefill-context-parallel-size", "1")),
        ({}, {"MULTIFLORA_DECODE_CONTEXT_PARALLEL_SIZE": "2"}, ("MULTIFLORA_DECODE_CONTEXT_PARALLEL_SIZE 2", "at 1")),
        ({"enable_lora": False, "lora_modules": ["a=b"]}, {}, ("enable_lora", "--no-enable-lora")),
        ({"adapter_resolver": ["/adapters"]}, {}, ("--adapter-resolver", "dir:/folder")),
        ({"adapter_resolver": ["hf:org"]}, {}, ("--adapter-resolver", "hf:organisation/*")),
        ({"adapter_resolver": ["hf:../*"]}, {}, ("--adapter-resolver", "hf:organisation/*")),
        ({"enable_lora": False, "adapter_resolver": ["dir:/a"]}, {}, ("enable_lora", "--no-enable-lora")),
        ({"ssl_keyfile": "k.pem"}, {}, ("ssl_certfile", "both")),
        ({"no_auth": True, "host": "0.0.0.0"}, {}, ("no_auth", "127.0.0.1")),
    ],
)
def test_a_bad_value_names_its_place_and_what_is_accepted(
    cli: dict[str, object], environ: dict[str, str], names: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        configure(cli, environ)
    assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prot: 1", "unknown option `prot:` in .*; did you mean `port:`"),
        ("- a\n- b", "must hold `key: value` lines"),
        ("port: 1\na: b: c", "is not YAML: line 2: mapping values are not allowed here"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "multiflora.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=message):
        configure({}, {}, file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot read --config"):
        configure({}, {}, tmp_path / "none.yaml")


def test_lists_come_from_the_environment_and_the_file(tmp_path: Path) -> None:
    file = tmp_path / "multiflora.yaml"
    file.write_text("allow-source-root: [/a, /b]\n", encoding="utf-8")
    found = configure({}, {"MULTIFLORA_LORA_MODULES": "x=/x,y=/y"}, file)
    assert found.settings.lora_modules == ("x=/x", "y=/y")
    assert found.settings.allow_source_root == (Path("/a"), Path("/b"))


def test_a_part_of_a_setting_leaves_its_other_parts_of_an_earlier_layer(tmp_path: Path) -> None:
    file = tmp_path / "multiflora.yaml"
    file.write_text("hf_overrides: {rope_scaling: {rope_type: yarn}, rope_theta: 1}\n", encoding="utf-8")
    parts = configure({"rope_theta": "2"}, {}, file)
    assert parts.settings.hf_overrides == {"rope_scaling": {"rope_type": "yarn"}, "rope_theta": 2}
    assert configure({"hf-overrides": '{"a": 1}'}, {}, file).settings.hf_overrides == {"a": 1}


def test_no_error_shows_a_secret() -> None:
    with pytest.raises(ConfigurationError) as caught:
        configure({}, {"MULTIFLORA_API_KEY": "hush", "MULTIFLORA_PORT": "x"})
    assert "hush" not in str(caught.value)
    with pytest.raises(ConfigurationError) as caught:
        configure({"api_key": {"key": "hush"}}, {})
    assert "hush" not in str(caught.value)


def test_vllms_names_mean_the_same_on_the_command_line_in_the_environment_and_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "multiflora.yaml"
    file.write_text("dtype: half\ntrust-remote-code: true\nrevision:\n", encoding="utf-8")
    environ = {"MULTIFLORA_SWAP_SPACE": "4", "MULTIFLORA_DISABLE_LOG_REQUESTS": "1"}
    found = configure({"kv_cache_memory_bytes": "1M", "max_log_len": "8"}, environ, file)
    assert (found.settings.dtype, found.settings.revision, found.settings.enable_log_requests) == (
        "float16",
        None,
        False,
    )
    assert found.settings.kv_cache_memory == 1 << 20
    assert [found.sources[name] for name in ("dtype", "enable_log_requests", "kv_cache_memory", "revision")] == [
        "file",
        "env",
        "cli",
        "default",
    ]
    first, second = found.notices
    assert first.startswith(f"`trust_remote_code:` in {file} has no effect: ")
    assert second.startswith("--max-log-len has no effect: ")
