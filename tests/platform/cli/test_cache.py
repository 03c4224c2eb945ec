"""`multiflora cache simulate`: rows for each size and policy, and bad files are the user's to mend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from multiflora_engine.simulation.block_trace import write_line
from multiflora_engine.simulation.workloads import loop
from multiflora_platform.cli.main import main


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "loop.jsonl"
    path.write_bytes(b"".join(map(write_line, loop(prompts=8, rounds=12))))
    return path


def test_hit_rates_of_each_policy_and_size(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "simulate", str(trace), "--blocks", "60", "200", "-o", "json"]) == 0
    rows = {(row["blocks"], row["policy"]): row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {(size, policy) for size in (60, 200) for policy in ("worth", "lru", "optimum")}
    assert rows[60, "lru"]["hit_rate"] == 0 < rows[60, "worth"]["hit_rate"] <= rows[60, "optimum"]["hit_rate"]
    assert rows[60, "worth"]["of_optimum"] > 0.6
    assert rows[200, "lru"]["hit_rate"] == rows[200, "optimum"]["hit_rate"] == pytest.approx(11 / 12, abs=1e-4)
    assert rows[200, "lru"]["computed_blocks"] < rows[60, "worth"]["computed_blocks"]


def test_sizes_are_found_and_policies_chosen(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "simulate", str(trace), "--policy", "worth"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3
    assert all("worth" in line for line in lines[1:])
    assert "#" in lines[-1]


@pytest.mark.parametrize("content", [b"no json", b'{"blocks": ["xy"], "prompt_blocks": 0}', b"", b"\xff\n"])
def test_what_is_no_trace_is_told(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace"
    path.write_bytes(content)
    assert main(["cache", "simulate", str(path)]) == 3
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "simulate", str(tmp_path / "gone")]) == 3
    assert "cannot read" in capsys.readouterr().err


@pytest.mark.parametrize("blocks", ["0", "-1", "x", "1.5"])
def test_a_pool_has_blocks(blocks: str, trace: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["cache", "simulate", str(trace), "--blocks", blocks])
    assert ended.value.code == 2
