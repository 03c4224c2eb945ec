"""What day and time chat templates are told: of now, of the day, or always the same, so that prompts stay alike."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

DateChoice = Literal["now", "utc-day", "fixed"]
# What Llama 3's own templates write where they are told no date.
_FIXED = datetime(2024, 7, 26)


def dates(choice: DateChoice, clock: Callable[[], datetime] = datetime.now) -> Callable[[str], str]:
    """strftime_now of a template. utc-day: midnight, so that it changes once a day. clock: local time, or aware."""
    if choice == "fixed":
        return _FIXED.strftime
    if choice == "now":
        return lambda form: clock().strftime(form)
    return lambda form: clock().astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0).strftime(form)
