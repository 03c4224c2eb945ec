"""What /v1 refuses a prompt or a model for, told in the words of /api/v1."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from multiflora_platform.registry.errors import AdapterNotFound
from multiflora_platform.web.openai_errors import ApiError
from multiflora_platform.web.problems import InvalidRequest, Unavailable


@contextmanager
def as_problems() -> Iterator[None]:
    """Raises Problem where its block raises ApiError."""
    try:
        yield
    except ApiError as error:
        if error.status >= 500:
            raise Unavailable(error.message) from None
        problem = AdapterNotFound if error.status == 404 else InvalidRequest
        raise problem(error.message, pointer=_pointer(error.param)) from None


def _pointer(param: str | None) -> str:
    """`messages[0].role` as RFC 6901's /messages/0/role."""
    return "".join(f"/{step}" for step in re.split(r"[\[\].]+", param or "") if step)
