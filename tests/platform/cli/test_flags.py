"""The command line of `serve` as vLLM's users write it: spellings, two models, unknown flags, what is told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from multiflora_platform.cli.main import main
from multiflora_platform.cli.vllm_spelling import as_we_write_it


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("M --max_model_len 8", "M --max-model-len 8"),
        ("--max_model_len=8", "--max-model-len=8"),
        ("--trust_remote_code M", "--trust-remote-code M"),
        ("--enable-chunked-prefill False M", "--no-enable-chunked-prefill M"),
        ("--enable-chunked-prefill=True", "--enable-chunked-prefill"),
        ("--enable-prefix-caching false", "--no-enable-prefix-caching"),
        ("--no-enable-prefix-caching M", "--no-enable-prefix-caching M"),
        ("--max-model-len -1 --seed 0", "--max-model-len -1 --seed 0"),
        ("--x -0.5", "--x -0.5"),
        ("--served-model-name a.b c_d", "--served-model-name a.b c_d"),
        ("--chat-template ./a_b.jinja", "--chat-template ./a_b.jinja"),
        ("-- --a_b", "-- --a_b"),
    ],
)
def test_vllms_spellings(given: str, written: str) -> None:
    assert as_we_write_it(given.split()) == written.split()


def test_an_object_may_be_written_by_its_keys() -> None:
    assert as_we_write_it(
        ["--override-generation-config.top_k", "3", "M", "-O.level=2", "-O.a.b", "x", "-O.a", "1"]
    ) == [
        "M",
        "--override-generation-config",
        '{"top_k": 3}',
        "-O",
        '{"level": 2, "a": 1}',
    ]


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], list[str]]:
    """The settings by name, and the lines of stderr."""
    assert main(["config", "show", "-o", "json", *arguments]) == 0
    printed = capsys.readouterr()
    return {row["setting"]: row["value"] for row in json.loads(printed.out)}, printed.err.splitlines()


def test_flags_that_act_and_flags_that_do_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    line = (
        "--model org/m --trust-remote-code -tp 1 --dtype half --served-model-name a b --max-model-len 4K -O3 "
        "--swap-space 64 --disable-log-requests --block_size 128 --gpu-memory-utilization 0.95 --max-num-seqs 256 "
        "--enable-lora --override-generation-config.top_k 5 --enable-chunked-prefill"
    )
    settings, told = shown(capsys, *line.split())
    assert (settings["model"], settings["dtype"], settings["served_model_name"]) == ("org/m", "float16", "a, b")
    assert (settings["max_model_len"], settings["block_size"], settings["max_num_seqs"]) == ("4096", "128", "256")
    assert (settings["enable_log_requests"], settings["enable_lora"]) == ("False", "True")
    assert settings["kv_offload_bytes"] == str(64 << 30)
    assert settings["override_generation_config"] == "{'top_k': 5}"
    assert sorted(notice.split(" has no effect: ")[0] for notice in told) == [
        "multiflora: --compilation-config",
        "multiflora: --trust-remote-code",
    ]


def test_the_model_may_be_given_twice_but_not_two_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, "org/m", "--model", "org/m")[0]["model"] == "org/m"
    with pytest.raises(SystemExit) as caught:
        main(["serve", "org/m", "--model", "org/n"])
    assert caught.value.code == 2
    assert "MODEL is org/m, --model is org/n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--max-modl-len", "--max-model-len"),
        ("--tensor_paralel_size", "--tensor-parallel-size"),
        ("--no-enable-prefix-cahcing", "--enable-prefix-caching"),
        ("--quite-another-thing", None),
    ],
)
def test_an_unknown_flag_names_the_nearest_after_a_short_usage(
    capsys: pytest.CaptureFixture[str], flag: str, meant: str | None
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", flag, "8"])
    assert caught.value.code == 2
    usage, error = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: multiflora serve [MODEL]")
    assert f"unknown argument {flag.replace('_', '-')}" in error
    assert ("did you mean" in error) == (meant is not None)
    assert meant is None or error.endswith(f"did you mean {meant}?")


@pytest.mark.parametrize(
    ("line", "command", "error"),
    [
        ("chat --urll x", "multiflora chat", "unrecognized arguments: --urll x; did you mean --url?"),
        ("adapters ls --api-kye=x", "multiflora adapters ls", "--api-kye=x; did you mean --api-key?"),
        ("complete --quite-another-thing", "multiflora complete", "unrecognized arguments: --quite-another-thing"),
    ],
)
def test_other_commands_show_their_own_usage_and_the_nearest_flag(
    capsys: pytest.CaptureFixture[str], line: str, command: str, error: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"usage: {command} ")
    assert told.endswith(f"{error}\n")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["-dcp", "2"], ("--decode-context-parallel-size 2", "not contexts", "leave it at 1")),
        (["-pp", "9"], ("--pipeline-parallel-size 9", "4 layers", "Choose 4 or less.")),
        (["-tp", "3"], ("--tensor-parallel-size 3", "4 attention heads", "Choose 1, 2, 4.")),
        (["-dpr", "2"], ("--data-parallel-start-rank 2", "--replicas")),
        (["--load-format", "dummy"], ("--load-format dummy", "safetensors")),
        (["--quantization", "awq"], ("quantization is awq", "not quantised", "Leave it out")),
        (["--no-enable-lora", "--lora-modules", "a=b"], ("enable_lora", "--lora-modules")),
        (["--ssl-keyfile", "k.pem", "--ssl-certfile", "c.pem"], ("c.pem", "k.pem", "PEM")),
    ],
)
def test_what_cannot_be_is_exit_code_3(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], parts: tuple[str, ...]
) -> None:
    assert main(["serve", "--data-dir", str(tmp_path), "--port", "0", *arguments]) == 3
    error = capsys.readouterr().err
    assert len(error.splitlines()) <= 2
    assert all(part in error for part in parts)


def test_the_version_is_told_in_three_places(capsys: pytest.CaptureFixture[str]) -> None:
    import multiflora

    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"multiflora {multiflora.__version__}\n"


def test_the_api_server_is_serve() -> None:
    command = [sys.executable, "-m", "multiflora.entrypoints.openai.api_server", "--pipeline-parallel-size", "9"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("multiflora: --pipeline-parallel-size 9: ")
