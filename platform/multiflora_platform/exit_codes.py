"""Exit codes of the command line and the exception that carries one."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    OK = 0
    FAILURE = 1
    # A command line that cannot be understood; argparse uses it, too.
    USAGE = 2
    # Also: the model is missing or corrupt, the port in use.
    CONFIGURATION = 3
    # No server answers at --url.
    UNREACHABLE = 4
    # The server's validation rejected the adapter.
    REJECTED = 5


class CommandError(Exception):
    """A command that failed; the message names cause and next step."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILURE, slug: str = "") -> None:
        """slug: the server's stable name of the problem; empty when there was none."""
        super().__init__(message)
        self.code = code
        self.slug = slug
