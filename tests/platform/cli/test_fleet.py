"""`multiflora fleet simulate`: a row for each number of replicas and policy, and bad files are the user's to mend."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.platform.fleet_simulation.test_run import request

from multiflora_engine.protocol.traced_request import TracedRequest
from multiflora_engine.simulation.block_trace import write_line
from multiflora_platform.cli.main import main


def written(path: Path, *trace: TracedRequest) -> str:
    path.write_bytes(b"".join(map(write_line, trace)))
    return str(path)


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """Three contexts, ten times each, two a second."""
    return written(tmp_path / "trace.jsonl", *(request(100 * (turn % 3), 8, at=turn / 2) for turn in range(30)))


def test_a_row_for_each_number_of_replicas_and_policy(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    times = ["--step-seconds", "0.01", "--prompt-seconds", "0.001", "--front-seconds", "0.005"]
    assert main(["fleet", "simulate", trace, "--blocks", "20", "--replicas", "3", "1", *times, "-o", "json"]) == 0
    rows = {(row["replicas"], row["policy"]): row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {(count, policy) for count in (1, 3) for policy in ("score", "round-robin")}
    assert {row["figures"] for row in rows.values()} == {"simulated"}
    assert rows[3, "score"]["requests"] == 30
    # Each context is computed once, by its home; 128 of 129 tokens are found after that.
    assert rows[3, "score"]["cached"] == pytest.approx(0.9 * 128 / 129, abs=1e-3)
    assert rows[1, "score"]["cached"] < 0.6
    assert rows[3, "score"]["ttft_p50"] == pytest.approx(0.005 + 0.01 + 0.001)
    assert rows[3, "score"]["ttft_p99"] == pytest.approx(0.005 + 0.01 + 0.129)


def test_replicas_follow_the_load(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--blocks", "20", "--replicas", "3", "--min-replicas", "1", "--policy", "score", "-o", "json"]
    assert main(["fleet", "simulate", trace, *arguments]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["replica_seconds"] == pytest.approx(15.0, abs=1.0), "one is enough"


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--blocks", "20", "--replicas", "2", "--min-replicas", "3"], 2, "--min-replicas 3 is more than --replicas 2"),
        (["--blocks", "0"], 2, "'0' is no whole number above 0"),
        (["--blocks", "20", "--speed", "0"], 2, "0 is no number above 0"),
        (["--blocks", "20", "--step-seconds", "-1"], 2, "'-1' is no number from 0 up"),
        (["--blocks", "20", "--policy", "best"], 2, "invalid choice"),
    ],
)
def test_what_cannot_be_simulated(
    trace: str, arguments: list[str], code: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        ended = main(["fleet", "simulate", trace, *arguments])
    except SystemExit as error:
        ended = error.code  # type: ignore[assignment]
    assert ended == code
    assert reason in capsys.readouterr().err


def test_a_trace_without_times_is_recorded_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "old.jsonl", request(0), request(10))
    assert main(["fleet", "simulate", path, "--blocks", "20"]) == 3
    assert "does not tell when its requests came; record it again" in capsys.readouterr().err
