"""The driver of the first contact, on parts that fail in every way: none costs another, no row is lost or repeated."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpu import process as process_module
from gpu.case import Case, Setting
from gpu.catalogue import PARTS, Part
from gpu.contact import START, Contact, process
from gpu.journal import Journal
from gpu.report import report_lines

ROOT = Path(__file__).parents[3]

FAKE_PARTS = {
    "rows": """
def cases(setting):
    for number in range(3):
        yield Case(f"row {number}", lambda number=number: {"us": number, "layers": setting.layers})
""",
    "failing": """
def fail():
    raise ValueError("no such kernel")

def cases(setting):
    yield Case("bad", fail)
    yield Case("good", lambda: {"us": 1})
""",
    "hanging": """
import time

def cases(setting):
    yield Case("hangs", lambda: time.sleep(60), seconds=0.2)
    yield Case("good", lambda: {"us": 1})
""",
    "crashing": """
import os, signal

def cases(setting):
    yield Case("good", lambda: {"us": 1})
    yield Case("crashes", lambda: os.kill(os.getpid(), signal.SIGSEGV))
    yield Case("good, too", lambda: {"us": 2})
""",
    "sticky": """
import sys
from types import SimpleNamespace

def lose(*arguments, **options):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")

def sticks():
    cuda = SimpleNamespace(is_initialized=lambda: True, empty_cache=lose, synchronize=lose)
    sys.modules["torch"] = SimpleNamespace(cuda=cuda, zeros=lose)
    lose()

def cases(setting):
    yield Case("sticks", sticks)
    yield Case("good", lambda: {"us": 1})
""",
    "broken": """
raise ImportError("no such module")
""",
    "endless": """
import time
time.sleep(60)
""",
}


@pytest.fixture
def contact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Works through the named fake parts in real processes: what the journal then knows of each."""
    for name, source in FAKE_PARTS.items():
        (tmp_path / f"fake_{name}.py").write_text(f"from gpu.case import Case\n{source}")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT / 'benchmarks'}")
    monkeypatch.setattr(Part, "module", property(lambda part: f"fake_{part.name}"))
    path = tmp_path / "contact.jsonl"

    def run(*names: str, seconds: float = 60.0, part_seconds: float = 60.0) -> dict[str, Any]:
        journal = Journal(path)
        start = process(path, tmp_path / "contact.log", rehearses=False)
        Contact(journal, start, seconds).work([Part(name, name, part_seconds) for name in names])
        return {name: journal.ended(name) for name in names}

    return run


def test_each_part_ends_in_its_own_way(contact: Callable[..., dict[str, Any]]) -> None:
    found = contact("failing", "hanging", "crashing", "sticky", "broken", "rows")
    for part in ("failing", "hanging", "crashing", "sticky"):
        assert found[part]["good"]["us"] == 1, f"{part}: what follows a failure is found out all the same"
    assert found["failing"]["bad"]["error"].endswith("ValueError: no such kernel")
    assert "status 1" in found["hanging"]["hangs"]["error"]
    assert "fake_hanging.py" in found["hanging"]["hangs"]["error"], "where it hung is on record"
    assert "SIGSEGV" in found["crashing"]["crashes"]["error"]
    assert found["crashing"]["good, too"]["us"] == 2
    assert "illegal memory access" in found["sticky"]["sticks"]["error"]
    assert "no such module" in found["broken"][START]["error"]
    assert [row["us"] for row in found["rows"].values()] == [0, 1, 2]


def test_a_second_call_repeats_nothing(contact: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    contact("failing", "rows")
    before = (tmp_path / "contact.jsonl").read_text()
    contact("failing", "rows")
    assert (tmp_path / "contact.jsonl").read_text() == before
    Journal(tmp_path / "contact.jsonl").try_failed_again()
    contact("failing", "rows")
    lines = [json.loads(line) for line in (tmp_path / "contact.jsonl").read_text().splitlines()]
    assert [line["case"] for line in lines if "error" in line] == ["bad", "bad"], "what failed has been tried again"
    assert [line["us"] for line in lines if "us" in line] == [1, 0, 1, 2], "and nothing else"


def test_what_the_end_cuts_off_is_no_failure(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    calls: list[str] = []

    def run(part: Part, seconds: float) -> tuple[int | None, str]:
        calls.append(part.name)
        journal.done(part.name, "good", 1.0, {"us": 1})
        journal.began(part.name, "endless")
        return None, ""

    for _ in range(2):
        Contact(journal, run, 60.0).work([Part("first", "", 30), Part("second", "", 30)])
    assert calls == ["first", "second"] * 2, "the next call begins the case anew"
    assert list(journal.ended("first")) == ["good"]


def test_a_process_that_does_not_end_is_ended(contact: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    run = process(tmp_path / "contact.jsonl", tmp_path / "contact.log", rehearses=False)
    assert run(Part("endless", "", 30), 0.5)[0] is None


def test_nothing_begins_when_the_time_is_over(tmp_path: Path) -> None:
    now = [0.0]
    asked: list[tuple[str, float]] = []

    def run(part: Part, seconds: float) -> tuple[int | None, str]:
        asked.append((part.name, seconds))
        now[0] += seconds
        return None, ""

    parts = [Part("first", "", 30), Part("second", "", 300), Part("third", "", 30)]
    Contact(Journal(tmp_path / "journal"), run, 100.0, lambda: now[0]).work(parts)
    assert asked == [("first", 30.0), ("second", 70.0)]


def test_a_part_that_only_crashes_is_given_up(tmp_path: Path) -> None:
    calls: list[str] = []

    def run(part: Part, seconds: float) -> tuple[int | None, str]:
        calls.append(part.name)
        return -9, ""

    journal = Journal(tmp_path / "journal")
    Contact(journal, run, 100.0).work([Part("first", "", 90)])
    assert len(calls) == 2
    assert "SIGKILL" in journal.ended("first")[START]["error"]


def test_a_part_is_left_out_where_a_module_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(part: Part, seconds: float) -> tuple[int | None, str]:
        raise AssertionError("nothing runs")

    part = Part("engine", "steps", 90, ("json", "no_such_module"))
    Contact(Journal(tmp_path / "journal"), run, 100.0).work([part])
    assert "lacks no_such_module" in capsys.readouterr().out
    assert "for want of no_such_module" in report_lines(part, {})[0]


def test_a_line_that_was_cut_off_costs_no_other(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.done("part", "first", 1.0, {"us": 1})
    with (tmp_path / "journal").open("a") as file:
        file.write('{"part": "part", "case": "sec')
    journal = Journal(tmp_path / "journal")
    journal.done("part", "second", 1.0, {"us": 2})
    assert [line["us"] for line in journal.ended("part").values()] == [1, 2]


def test_cases_that_no_longer_fit_are_left_to_the_next_process(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    cases = [Case("first", lambda: {"us": 1})]
    assert process_module.run("part", lambda setting: iter(cases), Setting(), journal, seconds=1.0) == 0
    assert journal.ended("part") == {}
    assert process_module.run("part", lambda setting: iter(cases), Setting(), journal, seconds=60.0) == 0
    assert list(journal.ended("part")) == ["first"]


def test_the_report_is_short() -> None:
    part = PARTS[0]
    few = {f"row {i}": {"seconds": 1.0, "us": i, "kernels": [1]} for i in range(3)}
    lines = report_lines(part, few | {"bad": {"seconds": 1.0, "error": "Traceback\nValueError: no"}})
    assert "3 rows, 1 failed, 4 s" in lines[0]
    assert lines[1].split() == ["row", "0", "us", "0"]
    assert lines[-1].endswith("FAILED: ValueError: no")
    failed = {f"bad {i}": {"seconds": 1.0, "error": f"ended by SIGSEGV\nsaid {i}"} for i in range(7)}
    lines = report_lines(part, failed)
    assert lines[1].endswith("FAILED: ended by SIGSEGV")
    assert lines[6:] == ["and 2 more that failed"]
    many = {f"row {i}": {"seconds": 0.0, "us": 1, "share": i / 100} for i in range(101)}
    lines = report_lines(part, many)
    assert "50% in the middle" in lines[1]
    assert [line.split()[1] for line in lines[2:]] == ["0", "1", "2"]


def test_the_driver_needs_nothing_heavy() -> None:
    heavy = {"torch", "triton", "numpy", "multiflora_engine", "multiflora_kernels"}
    code = f"import gpu.contact, gpu.process, sys; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "benchmarks")}).returncode == 0
