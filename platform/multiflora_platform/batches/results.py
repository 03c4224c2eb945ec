"""A batch's two result files, appended to line by line. Knows no batches."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from multiflora_platform.storage.disk_errors import full_disk_reported

_encode = msgspec.json.Encoder().encode


class Results:
    """Each line goes out whole, at once: what a crash leaves are answered requests and at most one torn line.

    completed, failed: the requests that each file answers already.
    """

    def __init__(self, output: Path, errors: Path, completed: set[str], failed: set[str]) -> None:
        self.output = output
        self.errors = errors
        self.done = completed | failed
        self.completed = len(completed)
        self.failed = len(failed)
        self._files = {path: path.open("ab", buffering=0) for path in (output, errors)}
        for path in self._files:
            path.chmod(0o600)

    def add(self, custom_id: str, response: dict[str, Any]) -> None:
        """response: status_code, request_id, headers and body. What is no success goes to the error file.

        Raises InsufficientStorage, and has written nothing then.
        """
        succeeded = response["status_code"] < 400
        self._write(self.output if succeeded else self.errors, custom_id, response, None)
        self.completed += succeeded
        self.failed += not succeeded

    def expire(self, custom_ids: Iterable[str]) -> None:
        """The requests that the window left no time for."""
        error = {"code": "batch_expired", "message": "The batch's completion window ended before this request ran."}
        for custom_id in custom_ids:
            self._write(self.errors, custom_id, None, error)
            self.failed += 1

    def sync(self) -> None:
        for file in self._files.values():
            os.fsync(file.fileno())

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _write(self, path: Path, custom_id: str, response: dict[str, Any] | None, error: dict[str, str] | None) -> None:
        line = {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": custom_id, "response": response, "error": error}
        content, file = _encode(line) + b"\n", self._files[path]
        before = file.seek(0, os.SEEK_END)
        try:
            with full_disk_reported():
                while content:  # a disk that is nearly full takes a part of it
                    content = content[file.write(content) :]
        except BaseException:
            file.truncate(before)
            raise
