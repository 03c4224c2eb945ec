"""`multiflora cache record|simulate`: rows for each size and policy, and bad files are the user's to mend."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar
from xml.etree import ElementTree

import pytest

from multiflora_engine.simulation.block_trace import read_trace, write_line
from multiflora_engine.simulation.workloads import loop
from multiflora_platform.cli import cache
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


def test_a_plot_has_the_rows_of_the_table(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "curves.svg"
    assert main(["cache", "simulate", str(trace), "--blocks", "60", "200", "--plot", str(path), "-o", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    drawn = {title.text for title in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}title")}
    assert drawn == {
        f"{row['policy']}, {row['blocks']}: {value}"
        for row in rows
        for value in (f"{row['hit_rate']:.0%}", f"{row['computed_blocks']:,}")
    }


def test_a_plot_is_an_svg_that_can_be_written(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["cache", "simulate", str(trace), "--plot", str(tmp_path / "curves.png")])
    assert ended.value.code == 2


def test_a_plot_that_cannot_be_written_is_told_before_the_replays(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cache, "optimum", None)
    assert main(["cache", "simulate", str(trace), "--blocks", "60", "--plot", str(tmp_path / "no" / "x.svg")]) == 1
    said = capsys.readouterr()
    assert "cannot write" in said.err
    assert said.out == ""


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


class Server(BaseHTTPRequestHandler):
    """Answers with what it is given, then with nothing."""

    answers: ClassVar[list[dict[str, Any]]] = []
    asked: ClassVar[set[str]] = set()

    def do_POST(self) -> None:
        nothing = {"items": [], "lost": 0, "has_more": False}
        content = json.dumps(self.answers.pop(0) if self.answers else nothing).encode()
        self.asked.add(self.path)
        self.send_response(200 if self.path.startswith("/api/v1/cache:trace") else 404)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None: ...


def test_what_a_server_records_is_a_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(block: str, lost: int, has_more: bool) -> dict[str, Any]:
        return {"items": [{"blocks": [block * 8], "prompt_blocks": 1}], "lost": lost, "has_more": has_more}

    Server.answers = [answer("aa", 5, False), answer("bb", 0, True), answer("cc", 1, False)]
    monkeypatch.setattr(cache, "_POLL_SECONDS", 0.01)
    path = tmp_path / "trace.jsonl"
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        options = ["--seconds", "1", "--model", "org/tiny", "--url", url, "-o", "json"]
        assert main(["cache", "record", str(path), *options]) == 0
        assert Server.asked == {"/api/v1/cache:trace?model=org%2Ftiny"}
        assert main(["cache", "record", str(tmp_path / "no" / "folder"), "--url", url]) == 1
        server.shutdown()
    first, last = capsys.readouterr().out, path.read_bytes().splitlines()
    assert json.loads(first) == {"trace": str(path), "requests": 2, "lost": 1}
    assert [request.blocks for request in read_trace(last)] == [["bb" * 8], ["cc" * 8]]


def test_no_server_to_record(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    assert main(["cache", "record", str(path), "--url", "http://127.0.0.1:9"]) == 4
    assert not path.exists()
