"""A batch's lines: what one must be, and reading a whole input or a half-written output. Knows no database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import FileIO
from typing import Any, BinaryIO

import msgspec

from multiflora_platform.web.body_work import SMALL, too_much

MAX_LINES = 50_000
_MAX_ERRORS = 20


class BatchLine(msgspec.Struct, frozen=True):
    """One request, as the client wrote it into the file."""

    custom_id: str
    """Unique within the file; the result's line repeats it."""
    method: str
    """POST: `check_lines` takes no other."""
    url: str
    """The batch's endpoint."""
    body: dict[str, Any]


class LineError(msgspec.Struct, frozen=True):
    """What `check_lines` found wrong; the runner keeps it in the batch's row, and the client reads it there."""

    code: str
    message: str
    line: int
    """From 1."""
    param: str | None = None
    """The field of the line that is wrong; None for the whole line or file."""


def read_lines(file: BinaryIO) -> Iterator[BatchLine]:
    """Of a file that `check_lines` has found sound, from its beginning."""
    file.seek(0)
    for text in file:
        if text.strip():
            yield msgspec.json.decode(text, type=BatchLine)


def check_lines(file: BinaryIO, endpoint: str, most_bytes: int) -> tuple[int, list[LineError]]:
    """(how many requests, what is wrong with the file). most_bytes: of a line, as of a request's body."""
    seen: set[str] = set()
    errors: list[LineError] = []
    for number, text in enumerate(iter(lambda: file.readline(most_bytes + 1), b""), 1):
        if not text.strip():
            continue
        if len(text) > most_bytes:
            errors.append(LineError("line_too_long", f"Line {number} is larger than {most_bytes} bytes.", number))
            break
        error = _check(text, number, endpoint, seen)
        if error is not None:
            errors.append(error)
        if len(seen) > MAX_LINES:
            errors.append(LineError("too_many_requests", f"The file has more than {MAX_LINES} requests.", number))
        if len(errors) >= _MAX_ERRORS or len(seen) > MAX_LINES:
            break
    if not seen and not errors:
        errors.append(LineError("empty_file", "The file has no requests.", 1))
    return len(seen), errors


def done_ids(file: FileIO) -> set[str]:
    """The requests that a result file answers already; a line that was cut off while it was written is removed."""
    ids: set[str] = set()
    end = 0
    with open(os.dup(file.fileno()), "rb") as lines:
        lines.seek(0)
        for text in lines:
            if not text.endswith(b"\n"):
                break
            ids.add(msgspec.json.decode(text)["custom_id"])
            end += len(text)
    file.truncate(end)
    return ids


def _check(text: bytes, number: int, endpoint: str, seen: set[str]) -> LineError | None:
    if len(text) > SMALL and (reason := too_much(text)) is not None:
        return LineError("invalid_json_line", f"Line {number} holds {reason}.", number)
    try:
        line = msgspec.json.decode(text, type=BatchLine)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return LineError("invalid_json_line", f"Line {number} is not a request: {error}.", number)
    if not line.custom_id or line.custom_id in seen:
        return LineError("duplicate_custom_id", f"Line {number} needs a custom_id of its own.", number, "custom_id")
    seen.add(line.custom_id)
    if line.method != "POST":
        return LineError("invalid_method", f"Line {number}: method must be POST.", number, "method")
    if line.url != endpoint:
        return LineError(
            "mismatched_url", f"Line {number}: url must be the batch's endpoint {endpoint}.", number, "url"
        )
    if line.body.get("stream"):
        return LineError("invalid_body", f"Line {number}: a batch cannot stream.", number, "body.stream")
    return None
