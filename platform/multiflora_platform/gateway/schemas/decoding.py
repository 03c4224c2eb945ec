"""A request's bytes to one of the bodies of requests.py; whatever is wrong with them is a 400 that names the place."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from multiflora_platform.gateway.schemas.foreign_adapters import MENTIONS, refuse_foreign_names
from multiflora_platform.gateway.schemas.messages_requests import CountTokensRequest, MessagesRequest
from multiflora_platform.gateway.schemas.requests import BODIES, EngineRequest, ResponseRequest
from multiflora_platform.text.off_loop import off_loop
from multiflora_platform.web import typed_json
from multiflora_platform.web.body_work import MOST_VALUES, SMALL, too_deep, too_much
from multiflora_platform.web.openai_errors import ApiError, invalid

Body = TypeVar("Body", bound=msgspec.Struct)
_BODIES = (*BODIES, ResponseRequest, MessagesRequest, CountTokensRequest)
_DECODERS: dict[type[Any], msgspec.json.Decoder[Any]] = {body: msgspec.json.Decoder(body) for body in _BODIES}


async def read_body(request: Request, kind: type[Body]) -> Body:
    """A large body is read off the loop, and only where it does not hold up others there. Raises ApiError."""
    content = await request.body()
    if len(content) <= SMALL:
        return _read(content, kind)
    # Token ids of the longest prompt fit, with as much beside them.
    most_values = max(MOST_VALUES, 2 * request.app.state.services.max_model_len)
    return await off_loop(len(content), partial(_read_large, content, kind, most_values))


async def body_size(request: Request) -> int:
    """In bytes: what later work on the body takes grows with it."""
    return len(await request.body())


def _read_large(content: bytes, kind: type[Body], most_values: int) -> Body:
    if (reason := too_much(content, most_values)) is not None:
        raise invalid(None, f"The body holds {reason}.", "invalid_json")
    return _read(content, kind)


def _read(content: bytes, kind: type[Body]) -> Body:
    if too_deep(content):
        raise _too_deep()
    try:
        body: Body = typed_json.decode(content, _DECODERS[kind])
    except msgspec.ValidationError as error:
        raise _wrong_type(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(None, f"The body is not valid JSON: {error}.", "invalid_json") from None
    except RecursionError:
        raise _too_deep() from None
    if isinstance(body, EngineRequest) and any(word in content for word in MENTIONS):
        refuse_foreign_names(content, kind.__struct_fields__)
    return body


def _too_deep() -> ApiError:
    return invalid(None, "The body is nested too deeply.", "invalid_json")


def body_schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """For the OpenAPI page."""
    reference = {"$ref": f"#/components/schemas/{kind.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}


def component_schemas() -> dict[str, Any]:
    return msgspec.json.schema_components(_BODIES, ref_template="#/components/schemas/{name}")[1]


def wrong_value(path: str, reason: str) -> ApiError:
    """path: "" for the whole body. reason: msgspec's, without its place."""
    return invalid(path or None, typed_json.sentence(path, reason))


def _wrong_type(message: str) -> ApiError:
    path, sentence = typed_json.told(message)
    return invalid(path or None, sentence)
