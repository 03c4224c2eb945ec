"""Exit codes of the command line and the exception that carries one."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    OK = 0
    FAILURE = 1
    USAGE = 2
    CONFIGURATION = 3
    UNREACHABLE = 4
    REJECTED = 5


class CommandError(Exception):
    """A command that failed; the message names cause and next step. slug: the server's stable name of the problem."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILURE, slug: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.slug = slug
