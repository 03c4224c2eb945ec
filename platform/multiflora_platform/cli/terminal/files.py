"""What commands read from files that their arguments name; - is standard input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from multiflora_platform.exit_codes import CommandError, ExitCode


def read_text(path: str) -> str:
    """Raises CommandError."""
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", ExitCode.CONFIGURATION) from None
    except UnicodeDecodeError:
        raise CommandError(f"{path} is no text in UTF-8", ExitCode.CONFIGURATION) from None


def read_json(path: str) -> Any:
    """Raises CommandError."""
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise CommandError(f"{path} is no JSON: {error}", ExitCode.CONFIGURATION) from None
