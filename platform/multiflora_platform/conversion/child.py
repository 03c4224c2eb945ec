"""One conversion in a process of its own, with little of this one's environment, and what it says when it fails.

The process confines itself (confinement.py) once it has its libraries. Knows no tokenizers and no weights.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

# How a child ends that has printed why it converts nothing.
_REFUSED = 9
# Nothing else of the environment reaches a child, no token and no key.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
# tiktoken would keep vocabularies by their path, in a folder that every user may write.
_FIXED = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TIKTOKEN_CACHE_DIR": "",
}
_MOST_WORDS = 300


class ConversionError(Exception):
    """Why there is no conversion: what the file holds, or lacks; a part of a sentence."""


def run_child(module: str, *arguments: str, seconds: float) -> None:
    """Run `python -m MODULE ARGUMENTS` to its end. module: its `main` is `answer`. Raises ConversionError."""
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | _FIXED
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConversionError(f"it takes more than {seconds:.0f} s") from None
    if child.returncode == _REFUSED:
        raise ConversionError(child.stdout.strip())
    if child.returncode:
        raise ConversionError(_cause(child.returncode, child.stderr))


def answer(work: Callable[[], object]) -> None:
    """What a child's `main` does: the work; where that fails, its reason for `run_child`."""
    try:
        work()
    except ConversionError as error:
        reason = str(error)
    except MemoryError:
        reason = "it takes more memory than files of their size need"
    else:
        return
    print(reason[:_MOST_WORDS])
    sys.exit(_REFUSED)


def first_line(error: Exception) -> str:
    """Of what a library says, as a part of a sentence."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _cause(code: int, errors: str) -> str:
    if code == -signal.SIGXCPU:
        return "it takes more processor time than files of their size need"
    if code < 0:
        return f"the process that read it was ended by {signal.Signals(-code).name}"
    lines = errors.strip().splitlines()
    return lines[-1][:_MOST_WORDS].rstrip(".") if lines else f"the process that read it ended with {code}"
