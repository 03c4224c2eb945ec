"""Owns the native CPU library: compiled at first use, cached, loaded. Knows nothing of what its functions compute.

The library has a plain C ABI (no torch headers), so that compiling takes seconds and one build serves every torch. It
must not bring an OpenMP runtime of its own: two thread pools on the same cores would fight. Its OpenMP symbols stay
undefined at link time and resolve to the runtime that torch has already loaded.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import glob
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from multiflora_kernels.runtime.machine_cache import cache_root

SOURCES = Path(__file__).parents[1] / "native"
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-w", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
LINK_FLAGS = ("-undefined", "dynamic_lookup") if sys.platform == "darwin" else ()
COMPILE_TIMEOUT = 120.0
"""Seconds for one compiler call."""

_ARGUMENT_TYPES = {"p": ctypes.c_void_p, "l": ctypes.c_int64, "f": ctypes.c_float}


class NativeUnavailable(Exception):
    """Why there is no native library on this machine; the torch path takes over."""


def library() -> ctypes.CDLL | None:
    """The loaded library, or None (see `native_status`). The first call may compile for a few seconds."""
    return _load()[0]


def native_status() -> str:
    """One line for people: which native library runs, or why none does."""
    return _load()[1]


@functools.cache
def native_function(name: str, signature: str) -> Callable[..., None] | None:
    """The C function `name`, or None without a library. signature: p pointer, l int64, f float, one per argument.

    Cached as a whole, because every op of every layer asks anew.
    """
    loaded = library()
    if loaded is None:
        return None
    function = getattr(loaded, name)
    function.argtypes = [_ARGUMENT_TYPES[code] for code in signature]
    function.restype = None
    return function  # type: ignore[no-any-return]


def has_native(name: str) -> bool:
    """Whether the library has the function: some are there only where the processor has an instruction for them."""
    loaded = library()
    return loaded is not None and hasattr(loaded, name)


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    try:
        if os.environ.get("MULTIFLORA_NATIVE") == "0":
            raise NativeUnavailable("switched off by MULTIFLORA_NATIVE=0")
        return _load_or_compile(_find_compiler())
    except NativeUnavailable as reason:
        return None, f"torch only: {reason}"


def _find_compiler() -> str:
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(name):
            return name
    raise NativeUnavailable("no C++ compiler found (c++, g++ or clang++)")


def _load_or_compile(compiler: str) -> tuple[ctypes.CDLL, str]:
    """Tries with torch's OpenMP, then with one thread (a compiler whose OpenMP is not the one torch brought)."""
    runtime = _open_openmp()
    why_single = "no OpenMP runtime found"
    if runtime is not None:
        try:
            path = _build(compiler, ("-fopenmp",))
            return ctypes.CDLL(str(path)), f"native: {path} ({compiler}, OpenMP of {runtime})"
        except (NativeUnavailable, OSError) as error:
            why_single = str(error)
    try:
        path = _build(compiler, ())
        return ctypes.CDLL(str(path)), f"native: {path} ({compiler}, one thread: {why_single})"
    except OSError as error:
        raise NativeUnavailable(f"the library does not load: {error}") from error


def _open_openmp() -> str | None:
    """Makes torch's OpenMP runtime visible to libraries loaded later; its path, or None if there is none."""
    for path in (*_mapped_runtimes(), *_bundled_runtimes(), "libgomp.so.1"):
        try:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return path
    return None


def _mapped_runtimes() -> list[str]:
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[5] for line in lines if len(line.split(maxsplit=5)) == 6}
    return sorted(path for path in paths if Path(path).name.startswith(("libgomp", "libomp", "libiomp")))


def _bundled_runtimes() -> list[str]:
    root = Path(torch.__file__).parent
    patterns = (root / "lib" / "lib*omp*", root.parent / "torch.libs" / "lib*omp*")
    return sorted(path for pattern in patterns for path in glob.glob(str(pattern)))


def _build(compiler: str, options: tuple[str, ...]) -> Path:
    """The path of the compiled library, from the cache if the same sources, flags, compiler and processor made it."""
    flags = (*FLAGS, *_machine_flags(compiler), *options)
    folder = cache_root() / "native" / _key(compiler, flags)
    target = folder / "libmultiflora.so"
    if target.exists():
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work = tempfile.TemporaryDirectory(dir=folder)
    except OSError:
        # A home that cannot be written still gets a library: a private folder that lives as long as this process.
        folder = Path(tempfile.mkdtemp(prefix="multiflora-native-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        target = folder / "libmultiflora.so"
        work = tempfile.TemporaryDirectory(dir=folder)
    with work as name:
        finished = _compile(compiler, flags, Path(name))
        # Processes may race here: each renames a complete file, the last one stays.
        os.replace(finished, target)
    return target


def _compile(compiler: str, flags: Sequence[str], work: Path) -> Path:
    sources = sorted(SOURCES.glob("*.cpp"))
    objects = [str(work / f"{source.stem}.o") for source in sources]
    _run_all([[compiler, *flags, "-c", str(s), "-o", o] for s, o in zip(sources, objects, strict=True)])
    target = work / "libmultiflora.so"
    _run_all([[compiler, "-shared", *LINK_FLAGS, *objects, "-o", str(target)]])
    return target


def _run_all(commands: Sequence[Sequence[str]]) -> None:
    """Runs the commands at the same time. Raises NativeUnavailable with the first error's line."""
    running = [subprocess.Popen(c, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for c in commands]
    for process, command in zip(running, commands, strict=True):
        try:
            _, errors = process.communicate(timeout=COMPILE_TIMEOUT)
        except subprocess.TimeoutExpired:
            errors = f"no result after {COMPILE_TIMEOUT:.0f} s"
        if process.returncode != 0:
            _stop(running)
            raise NativeUnavailable(f"{command[0]} failed: {_first_line(errors)}")


def _stop(running: Sequence[subprocess.Popen[str]]) -> None:
    for process in running:
        process.kill()
        process.communicate()


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if "error" in line), text.strip()[:200] or "no message")


@functools.cache
def _machine_flags(compiler: str) -> tuple[str, ...]:
    """Compile for this very processor, as the compiler at hand spells it."""
    for flag in ("-march=native", "-mcpu=native"):
        if _output([compiler, flag, "-x", "c++", "-E", os.devnull]) is not None:
            return (flag,)
    return ()


def _key(compiler: str, flags: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for part in (_output([compiler, "--version"]) or "", *flags, platform.machine(), _processor()):
        digest.update(part.encode() + b"\0")
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()[:24]


@functools.cache
def _processor() -> str:
    """What tells one processor's instruction set from another's."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _output(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def pointer(tensor: torch.Tensor | None) -> int:
    """Address of a tensor's first element, 0 for no tensor. Read at every call: allocations are recycled."""
    return 0 if tensor is None else tensor.data_ptr()
