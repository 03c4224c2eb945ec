"""The library is compiled once, by the first process that asks, and its absence is a sentence, not an error."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from multiflora_kernels.activation import silu_and_mul, silu_and_mul_reference
from multiflora_kernels.runtime import native as native_library

load = native_library._load.__wrapped__


@pytest.fixture
def needs_library():
    if native_library.library() is None:
        pytest.skip(native_library.native_status())


@pytest.fixture
def quick_compiler(needs_library, monkeypatch, tmp_path):
    """The compiler at hand without its optimiser, which takes three quarters of the time; its library is cached in
    tmp_path."""
    script = tmp_path / "quick-c++"
    script.write_text(f'#!/bin/sh\nexec {native_library._find_compiler()} "$@" -O0\n')
    script.chmod(0o755)
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.slow
def test_two_processes_compile_at_the_same_time(quick_compiler, tmp_path):
    code = (
        "from multiflora_kernels.runtime.native import library, native_status; assert library(); print(native_status())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    racers = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    lines = [racer.communicate(timeout=120)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert lines[0] == lines[1]
    assert [path.name for path in tmp_path.glob("multiflora/native/*/*")] == ["libmultiflora.so"]


def test_torch_keeps_the_only_thread_pool(needs_library):
    """In a process of its own: what other tests import may bring pools along."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc")
    code = (
        "from multiflora_kernels.runtime.native import library; assert library(); print(open('/proc/self/maps').read())"
    )
    maps = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    runtimes = {line.split()[-1] for line in maps.splitlines() if "libgomp" in line or "libomp" in line}
    assert len(runtimes) == 1


def test_without_a_compiler_everything_runs_on_torch(monkeypatch, near):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    library, status = load()
    assert library is None
    assert status == "torch only: no C++ compiler found (c++, g++ or clang++)"
    monkeypatch.setattr(native_library, "_load", lambda: (library, status))
    x = torch.randn(3, 32)
    near(silu_and_mul(x), silu_and_mul_reference(x.double()))


def test_switched_off(monkeypatch):
    monkeypatch.setenv("MULTIFLORA_NATIVE", "0")
    assert load() == (None, "torch only: switched off by MULTIFLORA_NATIVE=0")


def test_a_compiler_that_fails(monkeypatch, tmp_path):
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho 'fatal error: no headers' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    library, status = load()
    assert library is None
    assert "fatal error: no headers" in status
    assert not list((tmp_path / "cache").glob("multiflora/native/*/*"))


@pytest.mark.slow
def test_without_openmp_it_runs_on_one_thread(quick_compiler, monkeypatch, near):
    monkeypatch.setattr(native_library, "_open_openmp", lambda: None)
    loaded = load()
    assert "one thread: no OpenMP runtime found" in loaded[1]
    monkeypatch.setattr(native_library, "_load", lambda: loaded)
    x = torch.randn(300, 640)
    near(silu_and_mul(x), silu_and_mul_reference(x.double()))


def test_a_home_that_cannot_be_written(monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr(native_library, "_compile", lambda compiler, flags, work: blocked)
    compiler = "c++"
    built = native_library._build(compiler, ())
    assert built.name == "libmultiflora.so"
    assert tmp_path not in built.parents


def test_other_sources_or_flags_are_another_library(monkeypatch, tmp_path):
    source = tmp_path / "kernel.cpp"
    source.write_text("int one;")
    monkeypatch.setattr(native_library, "SOURCES", tmp_path)
    first = native_library._key("c++", ("-O3",))
    assert native_library._key("c++", ("-O3",)) == first
    assert native_library._key("c++", ("-O2",)) != first
    source.write_text("int two;")
    assert native_library._key("c++", ("-O3",)) != first


def test_a_type_has_its_name_alone():
    """What std's templates make of types of one name the linker takes for the same, in whatever files they are."""
    types = Counter(
        name
        for path in native_library.SOURCES.iterdir()
        for name in re.findall(r"^struct (\w+)", path.read_text(), re.M)
    )
    assert len(types) > 10
    assert [name for name, count in types.items() if count > 1] == []
