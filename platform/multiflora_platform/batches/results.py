"""A batch's two result files, appended to line by line. Knows no batches."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from io import FileIO
from typing import Any

import msgspec

from multiflora_platform.batches.lines import done_ids
from multiflora_platform.storage.disk_errors import full_disk_reported

_encode = msgspec.json.Encoder().encode


class Results:
    """Each line goes out whole, at once: what a crash leaves are answered requests and at most one torn line.

    done: the requests that were answered before; completed, failed: how many each of the files answers.
    """

    def __init__(self, output: FileIO, errors: FileIO) -> None:
        self.output = output
        self.errors = errors
        self.done: set[str] = set()
        self.completed = 0
        self.failed = 0

    def read(self) -> None:
        """What is there already; a torn line is removed. Before the first `add`. Blocks."""
        completed, failed = done_ids(self.output), done_ids(self.errors)
        self.done = completed | failed
        self.completed, self.failed = len(completed), len(failed)

    def add(self, custom_id: str, response: dict[str, Any]) -> None:
        """response: status_code, request_id, headers and body. What is no success goes to the error file.

        Raises InsufficientStorage, and has written nothing then.
        """
        succeeded = response["status_code"] < 400
        _write(self.output if succeeded else self.errors, custom_id, response, None)
        self.completed += succeeded
        self.failed += not succeeded

    def expire(self, custom_ids: Iterable[str]) -> None:
        """The requests that the window left no time for."""
        error = {"code": "batch_expired", "message": "The batch's completion window ended before this request ran."}
        for custom_id in custom_ids:
            _write(self.errors, custom_id, None, error)
            self.failed += 1

    def close(self) -> None:
        self.output.close()
        self.errors.close()


def _write(file: FileIO, custom_id: str, response: dict[str, Any] | None, error: dict[str, str] | None) -> None:
    line = {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": custom_id, "response": response, "error": error}
    content = _encode(line) + b"\n"
    before = file.seek(0, os.SEEK_END)
    try:
        with full_disk_reported():
            while content:  # a disk that is nearly full takes a part of it
                content = content[file.write(content) :]
    except BaseException:
        file.truncate(before)
        raise
