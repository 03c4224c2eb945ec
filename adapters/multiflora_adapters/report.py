"""What the checks of an adapter say: rows of a report, and the one exception that carries such a row. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

Severity = Literal["error", "warning", "info", "ok"]

_NAMES_SHOWN = 5
POINTER = b"version https://git-lfs"
"""How a file begins that Git LFS keeps elsewhere."""


class ValidationRow(msgspec.Struct, frozen=True, kw_only=True):
    """One finding, for the person who made the adapter. Validation, probe and evals fill it."""

    check: str  # the rule's name: "config", "tensors", "probe", ...
    severity: Severity  # an error forbids serving; a warning does not
    message: str  # one sentence; what comes from the files is cut and printable (`shown`)
    observed: str | None = None  # the value in the adapter
    expected: str | None = None  # the value that would pass
    hint: str | None = None  # what to do next


class AdapterReport(msgspec.Struct, frozen=True):
    """All findings on one adapter, in the order of the checks."""

    rows: list[ValidationRow]

    @property
    def ok(self) -> bool:
        """True when nothing forbids serving the adapter."""
        return not any(row.severity == "error" for row in self.rows)

    @property
    def errors(self) -> list[ValidationRow]:
        return [row for row in self.rows if row.severity == "error"]


class AdapterError(ValueError):
    """Adapter content that cannot be read or served; `row` is the finding that says why."""

    def __init__(self, row: ValidationRow) -> None:
        super().__init__(row.message if row.hint is None else f"{row.message} {row.hint}")
        self.row = row


def error(
    check: str, message: str, *, observed: str | None = None, expected: str | None = None, hint: str | None = None
) -> ValidationRow:
    """A row that forbids serving."""
    return ValidationRow(
        check=check, severity="error", message=message, observed=observed, expected=expected, hint=hint
    )


def pointer_row(file_name: str) -> ValidationRow:
    """Of a file that begins as POINTER does."""
    return error(
        "file",
        f"{file_name} is a Git LFS pointer, not the file itself: the repository was cloned without its large files.",
        hint="Run `git lfs pull` in it, or download the adapter with `hf download`.",
    )


def warning(check: str, message: str, *, hint: str | None = None) -> ValidationRow:
    return ValidationRow(check=check, severity="warning", message=message, hint=hint)


def passed(check: str, message: str) -> ValidationRow:
    return ValidationRow(check=check, severity="ok", message=message)


def some_of(names: Iterable[str]) -> str:
    """The first few names and how many more there are; long names are cut, because they come from untrusted files."""
    listed = list(names)
    more = len(listed) - _NAMES_SHOWN
    return ", ".join(map(shown, listed[:_NAMES_SHOWN])) + (f" and {more} more" if more > 0 else "")


def shown(text: object, limit: int = 160) -> str:
    """An untrusted value as printable text of bounded length."""
    try:
        whole = str(text)
    except RecursionError:
        whole = f"deeply nested {type(text).__name__}"
    plain = "".join(c if c.isprintable() else "?" for c in whole[: limit + 1])
    return plain if len(plain) <= limit else plain[:limit] + "…"
