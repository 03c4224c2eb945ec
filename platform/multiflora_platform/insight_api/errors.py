"""What insight's routes refuse, beside what the registry's do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from multiflora_platform.registry.errors import AdapterNotFound
from multiflora_platform.web.openai_errors import ApiError
from multiflora_platform.web.problems import InvalidRequest, Problem, Unavailable


class NotCached(Problem):
    status, slug, title = 404, "not-cached", "The cache has no such prefix, or no room for the pin"


class RequestForgotten(Problem):
    status, slug, title = 404, "request-not-found", "The request is not known, or not any more"


@contextmanager
def as_problems() -> Iterator[None]:
    """What /v1 refuses a prompt or a model for, in the registry's words. Raises Problem."""
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
