"""The run of the tests that need a GPU, on made-up tests: which are chosen, in what order, what becomes of failures."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpu import check as check_module
from gpu.check import check, command, failed, run, stages

TESTS = {
    "tests/kernels/test_norm.py": """
import os, warnings
def test_gpu_good(): warnings.warn("a library's", UserWarning)
def test_gpu_bad(): assert 1 == 2
def test_gpu_sticky(): assert os.environ.get("CUDA_LAUNCH_BLOCKING") == "1"
def test_else(): assert False
""",
    "tests/kernels/attention/test_paged.py": "def test_gpu_first(): pass",
    "tests/engine/test_engine.py": "def test_gpu_engine(): pass",
    "tests/engine/test_host_only.py": "def test_host(): pass",
    "tests/platform/test_platform.py": "def test_gpu_platform(): pass",
}
CONFTEST = """
def pytest_itemcollected(item):
    if "gpu" in item.name:
        item.add_marker("gpu")
"""
INI = "[pytest]\nmarkers = gpu: here\n  kernel: here\nfilterwarnings = error\naddopts = --no-such-option\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, source in TESTS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        mark = "" if "host" in name else "# mark.gpu\n"
        (tmp_path / name).write_text(mark + source)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text(INI)
    return tmp_path


def test_what_fails_by_another_tests_error_passes_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_module, "_PROCESSES", 2)
    monkeypatch.chdir(root)
    for stage in ("attention/test_paged.py", "../engine/test_engine.py"):
        (root / "tests/kernels" / stage).unlink()
    assert not check(root, root, 120.0, ["-k", "not else"])
    said = capfd.readouterr().out
    assert "kernels: done, 2 failed" in said
    assert "FAILS ALONE, TOO tests/kernels/test_norm.py::test_gpu_bad" in said
    assert "passes alone tests/kernels/test_norm.py::test_gpu_sticky" in said
    assert list(failed(root / "check-kernels.xml")) == [
        "tests/kernels/test_norm.py::test_gpu_bad",
        "tests/kernels/test_norm.py::test_gpu_sticky",
    ]
    assert "assert 1 == 2" in (root / "check-again.log").read_text()


def test_parity_and_attention_come_first_and_the_engine_only_where_it_can_run(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [(stage.name, stage.files) for stage in stages(root)] == [
        ("first", ["tests/kernels/attention/test_paged.py"]),
        ("kernels", ["tests/kernels/test_norm.py"]),
        ("engine", ["tests/engine/test_engine.py"]),
    ]
    monkeypatch.setattr(check_module, "_ENGINE_NEEDS", ("json", "no_such_module"))
    assert [stage.name for stage in stages(root)] == ["first", "kernels"]
    assert "LEFT OUT: this Python lacks no_such_module" in capsys.readouterr().out


def test_this_repositorys_own_tests_are_found() -> None:
    first, kernels, engine = stages(Path(__file__).parents[3])
    assert "tests/engine/parity/test_rounding.py" in first.files
    assert "tests/kernels/attention/test_triton.py" in first.files
    assert "tests/kernels/test_rms_norm.py" in kernels.files
    assert {"tests/engine/core/test_transfers.py", "tests/engine/execution/test_graphs_beside_eager.py"} <= set(
        engine.files
    )


def test_plugins_that_are_not_there_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    full = command(8, 60, Path("report.xml"))
    assert full[full.index("-n") + 1] == "8"
    assert {"--dist", "loadfile", "--timeout", "60"} <= set(full)
    monkeypatch.setattr(check_module, "find_spec", lambda name: None)
    bare = command(8, 60, Path("report.xml"))
    assert not {"-n", "--dist", "--timeout", "xdist.plugin", "pytest_timeout"} & set(bare)
    assert "--junitxml=report.xml" in bare


def test_what_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_module, "_GRACE", 0.2)
    assert run(["sh", "-c", "trap '' INT; while :; do sleep 1; done"], 0.2) is None
    assert run(["sh", "-c", "exit 3"], 30.0) == 3


@pytest.mark.parametrize(("status", "is_well"), [(0, True), (5, True), (1, False), (3, False), (None, False)])
def test_a_stage_that_does_not_end_well_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, status: int | None, is_well: bool
) -> None:
    """Also one that leaves no report, or an old one."""
    monkeypatch.setattr(check_module, "run", lambda *arguments, **options: status)
    (root / "check-first.xml").write_text("of another run")
    assert check(root, root, 120.0, []) == is_well


def test_no_test_begins_when_the_time_is_over(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not check(root, root, 1.0, [])
    assert capsys.readouterr().out.count("LEFT OUT: the time is over") == 3
