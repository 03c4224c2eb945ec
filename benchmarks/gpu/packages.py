"""What travels to a machine with a GPU that reaches no network: `make gpu-packages`, on a machine that reaches one.

    python -m gpu.packages FOLDER [--python-version 3.12] [--cache-python PYTHON]

The folder gets the packages that a Python made for PyTorch lacks, for that version of Python on x86-64. If a Python
with the other machine's versions of Python, PyTorch and Triton is named, it gets the compiled kernels of a rehearsed
contact, too: that Python launches all of them on a card that is not there.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from gpu.catalogue import ENGINE
from gpu.kernel_cache import PACKED

_PLATFORMS = ("manylinux_2_31", "manylinux_2_28", "manylinux_2_17", "manylinux2014")
"""Each is asked for by name: pip takes none that is older by itself."""

MOST_BYTES = 64 << 20
"""With the repository: more is not carried everywhere."""

_REHEARSAL_SECONDS = 7200.0


def requirements(project: Path) -> list[str]:
    """Of the packages in question, as the project asks for them."""
    wanted = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    return [line for line in wanted if line.startswith(ENGINE)]


def fetch_command(folder: Path, version: str, wanted: list[str]) -> list[str]:
    """pip for another Python than its own; it installs by unpacking."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    command += ["--target", str(folder), "--no-deps", "--only-binary=:all:"]
    command += ["--implementation", "cp", "--python-version", version]
    for platform in _PLATFORMS:
        command += ["--platform", f"{platform}_x86_64"]
    return [*command, *wanted]


def fill_cache(cache: Path, python: str, parts: list[str]) -> None:
    """Rehearses these parts (none: all). Only what a card loads is kept of a kernel."""
    variables = os.environ | {"TRITON_CACHE_DIR": str(cache.absolute()), "TRITON_STORE_BINARY_ONLY": "1"}
    with tempfile.TemporaryDirectory() as output:
        command = [python, "-P", "-m", "gpu.contact", "--rehearse", "--output", output]
        command += ["--seconds", str(_REHEARSAL_SECONDS), *(["--only", *parts] if parts else [])]
        subprocess.run(command, env=variables, check=True)


def size(root: Path, folder: Path) -> int:
    """Bytes that travel: what git knows or would take, and the folder."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=root, capture_output=True, check=True).stdout.decode().split("\0")
    tracked = {root / name for name in names if name}
    return sum(path.stat().st_size for path in {*tracked, *folder.rglob("*")} if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python-version", default="3.12", help="of the machine with the GPU")
    parser.add_argument(
        "--cache-python", metavar="PYTHON", help="a Python like that machine's, to compile kernels with"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help="whose kernels are compiled")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.folder, ignore_errors=True)
    wanted = requirements(Path("pyproject.toml"))
    subprocess.run(fetch_command(arguments.folder, arguments.python_version, wanted), check=True)
    if arguments.cache_python:
        fill_cache(arguments.folder / PACKED.name, arguments.cache_python, arguments.only)
    total = size(Path.cwd(), arguments.folder)
    print(f"{arguments.folder} is ready; with the repository {total / 2**20:.0f} MiB travel.")
    if total > MOST_BYTES:
        sys.exit(f"That is more than {MOST_BYTES >> 20} MiB; name fewer parts with --only.")


if __name__ == "__main__":
    main()
