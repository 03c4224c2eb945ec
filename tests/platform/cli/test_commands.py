"""The command line without a server: usage, configuration and reachability errors end with their exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import httpx
import pytest
from rich.progress import Progress
from safetensors.numpy import load_file, save_file

from multiflora_kernels.runtime.processor import Processor
from multiflora_platform.cli.main import main
from multiflora_platform.cli.terminal import durations
from multiflora_platform.cli.terminal.progress import uploading
from multiflora_platform.observability import machine
from multiflora_platform.observability.machine import checks
from multiflora_platform.observability.nvml import Gpu
from multiflora_platform.settings import Settings

ROOT = Path(__file__).parents[3]
QUANTISED = ROOT / "tests/engine/models/quantisation/fixtures/gptq-4"
TOKENIZER = ROOT / "examples/demo/base/tokenizer.json"


def test_config_show_tells_values_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--max-loras", "3", "--api-key", "secret-key", "-o", "json"]) == 0
    output = capsys.readouterr().out
    rows = {row["setting"]: row for row in json.loads(output)}
    assert set(rows) == set(Settings.model_fields)
    assert (rows["max_loras"]["value"], rows["max_loras"]["source"]) == ("3", "cli")
    assert "secret-key" not in output


def test_config_show_hides_the_database_password(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--database-url", "postgresql://me:hush@host/db"]) == 0
    output = capsys.readouterr().out
    assert "hush" not in output
    assert "postgresql://me:***@host/db" in output


def test_the_module_ends_with_the_commands_exit_code() -> None:
    command = [sys.executable, "-m", "multiflora", "adapters", "ls", "--url", "http://127.0.0.1:9"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 4


def test_unknown_flag_is_a_usage_error() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--no-such-flag"])
    assert caught.value.code == 2


def test_bad_setting_is_a_configuration_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "99999"]) == 3
    error = capsys.readouterr().err
    assert "--port" in error
    assert len(error.splitlines()) <= 2


def test_missing_model_folder_is_a_configuration_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path / "none"), "--data-dir", str(tmp_path / "data"), "--port", "0"]) == 3
    error = capsys.readouterr().err
    assert "none" in error
    assert "Traceback" not in error


def test_a_damaged_quantised_checkpoint_is_a_configuration_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Which tensor is damaged is told by the engine's own process, when it reads the weights."""
    model = shutil.copytree(QUANTISED, tmp_path / "model")
    shutil.copy(TOKENIZER, model)
    tensors = load_file(model / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.qzeros"
    save_file({**tensors, name: tensors[name][:1].copy()}, model / "model.safetensors")
    assert main(["serve", str(model), "--data-dir", str(tmp_path / "data"), "--port", "0"]) == 3
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("multiflora: ")]
    assert len(told) == 1
    assert f"{name} has the shape [1, 8]; [3, 8] belongs to the other tensors" in told[0]


def test_a_missing_adapter_folder_is_a_configuration_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["serve", "--data-dir", str(tmp_path), "--port", "0", "--lora-modules", "sql=/no/where"]
    assert main(arguments) == 3
    error = capsys.readouterr().err
    assert "--lora-modules sql" in error
    assert "/no/where" in error


def test_a_resolver_s_missing_folder_is_a_configuration_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["serve", "--data-dir", str(tmp_path), "--port", "0", "--adapter-resolver", "dir:/no/where"]
    assert main(arguments) == 3
    assert "--adapter-resolver dir:/no/where: there is no such folder" in capsys.readouterr().err


def test_sigterm_before_the_server_listens_ends_well(tmp_path: Path) -> None:
    """The model's folder is a pipe, in which the start waits for a configuration that never comes."""
    (tmp_path / "model").mkdir()
    pipe = tmp_path / "model" / "config.json"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "multiflora", "serve", str(tmp_path / "model"), "--data-dir", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        writer = os.open(pipe, os.O_WRONLY)  # returns when the other end is open
        process.terminate()
        output = process.communicate(timeout=30)[1]
        os.close(writer)
    assert (process.returncode, output) == (0, b"")


@pytest.mark.parametrize("arguments", [["adapters", "ls"], ["keys", "ls"], ["adapters", "rm", "x"], ["bench", "serve"]])
def test_no_server_is_unreachable(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--url", "http://127.0.0.1:9"]) == 4
    assert "127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_the_commands(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("adapters", "rollout", "tenants", "webhooks", "--max-loras"):
        assert word in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_accepts_the_completion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    assert subprocess.run(["bash", "-n", str(tmp_path / "completion")], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "seconds"), [("90d", 7_776_000), ("12h", 43_200), ("30m", 1800), ("15s", 15), ("7", 7)]
)
def test_spans_of_time(text: str, seconds: int) -> None:
    assert durations.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "-1d", "1w", "1.5h", "9999999999s"])
def test_what_is_no_span_of_time(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        durations.seconds(text)


def test_an_upload_moves_its_bar_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(Progress, "advance", lambda self, task, advance: seen.append(advance))
    (tmp_path / "f").write_bytes(b"x" * 100_000)
    with uploading([tmp_path / "f"]) as [(name, file)]:
        request = httpx.Request("POST", "http://x/", files={"f": (name, file)})
        assert b"x" * 100_000 in b"".join(request.stream)  # type: ignore[arg-type]
    assert sum(seen) == 100_000


def test_doctor_explains_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "-o", "json"]) == 0
    found = {row["check"] for row in json.loads(capsys.readouterr().out)}
    assert {"python", "packages", "processor", "memory", "disk", "cpu kernels", "gpu", "quantization int8"} <= found


H200 = Gpu(0, "H200", (9, 0), None, None, 140 << 30)


@pytest.mark.parametrize(
    ("gpus", "cuda", "flags", "found"),
    [
        ([], None, [], "64 sequences and 2048 tokens a step"),
        ([H200], None, [], "64 sequences and 2048 tokens a step"),
        ([H200], "13.0", ["--device", "cpu", "--max-num-seqs", "5"], "5 sequences and 2048 tokens a step"),
        ([H200], "13.0", ["--enforce-eager"], "256 sequences and 8192 tokens a step, 0.957 of the GPU's memory"),
        (
            [H200],
            "13.0",
            ["--max-num-seqs", "9"],
            "9 sequences and 8192 tokens a step, 0.957 of the GPU's memory, graphs of 5 sizes up to 9 sequences, "
            "6 up to 512 tokens",
        ),
    ],
)
def test_doctor_and_config_say_what_an_engine_would_choose(
    gpus: list[Gpu],
    cuda: str | None,
    flags: list[str],
    found: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: gpus)
    monkeypatch.setattr(machine, "_torch_cuda", lambda: cuda)
    assert main(["doctor", "-o", "json", *flags]) == 0
    assert {row["check"]: row["found"] for row in json.loads(capsys.readouterr().out)}["engine sizes"] == found
    assert main(["config", "show", "-o", "json", *flags]) == 0
    rows = {row["setting"]: (row["value"], row["source"]) for row in json.loads(capsys.readouterr().out)}
    sequences = found.partition(" ")[0]
    assert rows["max_num_seqs"] == (sequences, "cli" if "--max-num-seqs" in flags else "device")
    assert rows["max_num_batched_tokens"] == (found.split(" ")[3], "device")
    assert rows["gpu_memory_utilization"] == (("0.957", "device") if "0.957" in found else ("", "default"))


def test_sizes_of_a_model_that_is_not_here_stay_open(capsys: pytest.CaptureFixture[str]) -> None:
    for model in ("some/model", str(Path(__file__).parent)):
        assert main(["config", "show", model, "-o", "json"]) == 0
        rows = {row["setting"]: (row["value"], row["source"]) for row in json.loads(capsys.readouterr().out)}
        assert rows["max_num_seqs"] == ("", "default")


@pytest.mark.parametrize(
    ("measured", "found"),
    [
        ({}, "measured at the first start with it"),
        ({"x": {}, "y": {"kind": "words", "least_rows": 4}}, "activations in integers of 16 bits"),
        ({"y": {"kind": "bytes", "least_rows": 1}}, "activations in integers of 8 bits, multiplied"),
        ({"y": {}}, "weights alone"),
    ],
)
def test_doctor_says_how_int8_is_multiplied(
    measured: dict[str, object], found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "multiflora").mkdir()
    (tmp_path / "multiflora" / "integer_products.json").write_text(json.dumps(measured))
    rows = {row["check"]: row["found"] for row in checks(tmp_path)}
    assert rows["quantization int8"].startswith(found)


@pytest.mark.parametrize(
    ("feature", "measured", "found"),
    [
        ("avx512_bf16", {}, "measured at the first start with one"),
        ("avx2", {"x": {"rounds_from": 4}, "y": {}}, "float32: weights in bfloat16 are slower"),
        ("avx512f", {"x": {}, "y": {"rounds_from": None}}, "linears in bfloat16, widened to float32"),
        ("amx_bf16", {"x": {}, "y": {"rounds_from": 4}}, "linears in bfloat16, with activations rounded to it, "),
    ],
)
def test_doctor_says_how_bfloat16_is_served(
    feature: str, measured: dict[str, object], found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(machine, "this_processor", lambda: Processor(frozenset({feature})))
    (tmp_path / "multiflora").mkdir()
    (tmp_path / "multiflora" / "bfloat16_ways.json").write_text(json.dumps(measured))
    rows = {row["check"]: row["found"] for row in checks(tmp_path)}
    assert rows["bfloat16 checkpoints"].startswith(found)
    assert feature in rows["processor"]


def test_doctor_looks_at_the_disk_of_the_data_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULTIFLORA_DATA_DIR", str(tmp_path))
    for flags, folder in (((), tmp_path), (("--data-dir", str(tmp_path.parent / "new")), tmp_path.parent)):
        assert main(["doctor", "-o", "json", *flags]) == 0
        rows = {row["check"]: row["found"] for row in json.loads(capsys.readouterr().out)}
        assert rows["disk"].endswith(f" at {folder}")


def test_db_upgrade_makes_the_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["db", "upgrade", "--data-dir", str(tmp_path / "data")]) == 0
    assert (tmp_path / "data" / "multiflora.db").exists()
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert "up to date" in capsys.readouterr().out


class Answers:
    """Plays the server: the answer to each call, in order, and what was sent."""

    def __init__(self, *answers: tuple[int, object]) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[str, str, dict[str, object]]] = []

    def __call__(self, method: str, url: str, **options: object) -> httpx.Response:
        self.sent.append((method, url.partition("/api/v1")[2], options))
        status, body = self.answers.pop(0)
        return httpx.Response(status, json=body)


def test_a_key_for_an_unknown_tenant_makes_no_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Answers((404, {"type": "urn:multiflora:problem:tenant-not-found", "detail": "There is no tenant 'nope'."}))
    monkeypatch.setattr(httpx, "request", server)
    assert main(["keys", "create", "ci", "--tenant", "nope"]) == 1
    assert [(method, path) for method, path, _ in server.sent] == [("POST", "/keys")]


def test_an_admin_key_for_a_tenant_is_the_servers_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Answers((400, {"type": "urn:multiflora:problem:invalid-request", "detail": "An admin key names none."}))
    monkeypatch.setattr(httpx, "request", server)
    assert main(["keys", "create", "ci", "--role", "admin", "--tenant", "acme"]) == 1
    assert [options["json"]["tenant"] for _, _, options in server.sent] == ["acme"]


def test_a_refused_key_is_told_from_a_missing_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = (401, {"type": "urn:multiflora:problem:invalid-api-key", "detail": "Send a valid key."})
    monkeypatch.setattr(httpx, "request", Answers(refusal, refusal))
    assert main(["adapters", "ls", "--api-key", ""]) == main(["adapters", "ls", "--api-key", "mf-no"]) == 1
    missing, refused = capsys.readouterr().err.splitlines()
    assert "the server wants a key; give --api-key" in missing
    assert "does not accept this key" in refused


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://host:port"])
def test_what_is_no_address_is_told_how_one_looks(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapters", "ls", "--url", url]) == 4
    assert "as in http://127.0.0.1:8000" in capsys.readouterr().err


def test_a_source_that_is_not_there_may_be_the_hubs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["adapters", "add", "sql", "acme/sql-lora"]) == 1
    assert "hf://" in capsys.readouterr().err


def test_a_folder_is_sent_with_its_model_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors", "README.md", "optimizer.pt"):
        (tmp_path / name).write_text("x")
    server = Answers((200, {}), (201, {"version": 1, "state": "ready", "digest": "d"}))
    monkeypatch.setattr(httpx, "request", server)
    assert main(["adapters", "add", "sql", str(tmp_path)]) == 0
    parts: list[tuple[str, tuple[str, object]]] = server.sent[1][2]["files"]  # type: ignore[assignment]
    names = [part[0] for field, part in parts if field == "files"]
    assert names == ["adapter_config.json", "adapter_model.safetensors", "README.md"]


def test_an_import_that_goes_on_says_how_to_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = {"version": 1, "state": "pending", "digest": None, "job": {"id": "j1"}}
    monkeypatch.setattr(httpx, "request", Answers((200, {}), (202, version)))
    assert main(["adapters", "add", "sql", "hf://org/repo"]) == 0
    assert "multiflora jobs wait j1" in capsys.readouterr().err


def test_an_import_can_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    version = {"version": 1, "state": "pending", "digest": None, "job": {"id": "j1"}}
    job = {"id": "j1", "adapter": "sql", "version": 1, "state": "failed", "version_state": "rejected", "progress": {}}
    monkeypatch.setattr(httpx, "request", Answers((200, {}), (202, version), (200, job)))
    monkeypatch.setattr("multiflora_platform.cli.jobs.server_events", lambda *arguments: iter(()))
    assert main(["adapters", "add", "sql", "hf://org/repo", "--wait"]) == 5


def test_a_backup_finds_the_data_of_make_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MULTIFLORA_DATA_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    assert main(["db", "backup", str(tmp_path / "none")]) == 3
    error = capsys.readouterr().err
    assert str(tmp_path / "home" / "multiflora" / "multiflora.db") in error
    assert "--data-dir" in error
    assert not (tmp_path / "home").exists(), "a backup leaves no empty database behind"
    assert main(["db", "upgrade", "--data-dir", ".multiflora"]) == 0
    assert main(["db", "backup", str(tmp_path / "copy")]) == 0
    assert (tmp_path / "copy" / "backup.json").exists()
    assert str(tmp_path / ".multiflora") in capsys.readouterr().err


def test_a_backup_makes_no_database_that_an_address_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, none = tmp_path / "data", tmp_path / "none.db"
    for url in (f"sqlite:///{none}", f"sqlite+aiosqlite:///{none}", "no address", "postgresql://host:none/x"):
        command = ["db", "backup", str(tmp_path / "copy"), "--data-dir", str(data), "--database-url", url]
        assert main(command) == 3
        error = capsys.readouterr().err
        assert "--database-url" in error
        assert not url.startswith("sqlite") or str(none) in error
    assert not list(tmp_path.iterdir())


def test_a_backup_of_an_empty_database_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "multiflora.db").touch()
    assert main(["db", "backup", str(tmp_path / "copy"), "--data-dir", str(tmp_path)]) == 3
    assert "empty" in capsys.readouterr().err
