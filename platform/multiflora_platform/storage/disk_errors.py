"""A full disk is no bug: the operator can free space. It becomes a typed error that says so."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from multiflora_platform.web.problems import InsufficientStorage


@contextmanager
def full_disk_reported() -> Iterator[None]:
    """Raises InsufficientStorage in the place of the OSError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InsufficientStorage("The data folder's disk is full; free some space and try again.") from error
