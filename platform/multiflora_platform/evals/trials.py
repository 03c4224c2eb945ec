"""What the server and its process of the checks tell each other. Needs neither's libraries."""

from __future__ import annotations

from typing import Any

import msgspec

SECONDS = 2.0
"""Of processor time, for one trial: what else the machine does gives up no check."""
MEGABYTES = 256


class Trial(msgspec.Struct, frozen=True, omit_defaults=True):
    """One pattern or one schema. answer: None asks only whether it is sound."""

    pattern: str | None = None
    definition: dict[str, Any] | None = None
    answer: str | None = None


class CheckVerdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """detail: why it did not pass, or what is wrong with the pattern or schema."""

    passed: bool
    detail: str = ""
