"""What a route answers, as a type: rendered as JSON, and described in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.responses import Response

_encode = msgspec.json.Encoder().encode
_REFERENCE = "#/components/schemas/{name}"
# Those that routes give, by name.
ANSWERS: dict[str, type[msgspec.Struct]] = {}


def rendered(answer: msgspec.Struct, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_encode(answer), status, dict(headers) if headers else None, "application/json")


def answers(kind: type[msgspec.Struct], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that answers with this type, by default with status 200."""
    ANSWERS[kind.__name__] = kind
    schema = {"$ref": _REFERENCE.format(name=kind.__name__)}
    content = {"application/json": {"schema": schema}}
    return {status: {"description": "Success", "content": content} for status in statuses or (200,)}


def answer_schemas() -> dict[str, Any]:
    """Components for the OpenAPI document: of all types that routes have named."""
    return msgspec.json.schema_components(ANSWERS.values(), ref_template=_REFERENCE)[1]
