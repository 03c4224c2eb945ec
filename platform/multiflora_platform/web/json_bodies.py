"""JSON bodies of /api: read, limited, described. Unknown fields are refused, errors point at the place."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec.structs import asdict

from multiflora_platform.web import typed_json
from multiflora_platform.web.problems import InvalidRequest, PayloadTooLarge, UnsupportedMedia

if TYPE_CHECKING:
    # Clients import `Body`, too, and need no server for it.
    from starlette.requests import Request

MAX_JSON_BYTES = 1 << 20
_REFERENCE = "#/components/schemas/{name}"
# Those that routes read, by name; `schema` fills it as the routes are declared.
BODIES: dict[str, type[msgspec.Struct]] = {}


class Body(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A client's spelling mistake is an error, not a default."""


class Patch(Body, frozen=True):
    """A change of some fields, UNSET in those that the client left out."""

    @property
    def fields(self) -> dict[str, Any]:
        """Those that the client sent."""
        return {name: value for name, value in asdict(self).items() if value is not msgspec.UNSET}


B = TypeVar("B", bound=msgspec.Struct)


def content_type(request: Request) -> str:
    return request.headers.get("content-type", "")


def is_json(request: Request) -> bool:
    kind = content_type(request).partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


async def read_limited(request: Request) -> bytes:
    """Raises PayloadTooLarge, by Content-Length before it reads."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > MAX_JSON_BYTES:
        raise _too_large()
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_JSON_BYTES:
            raise _too_large()
    return bytes(data)


async def read_json(request: Request, body_type: type[B]) -> B:
    """Raises UnsupportedMedia, PayloadTooLarge, InvalidRequest with a pointer."""
    # Clients import `Body`, too, and need no numpy for it.
    from multiflora_platform.web.body_work import too_deep

    if not is_json(request):
        raise UnsupportedMedia("Send JSON, with Content-Type: application/json.", pointer="Content-Type")
    data = await read_limited(request)
    if too_deep(data):
        raise InvalidRequest("The body is nested too deeply.", pointer="")
    try:
        return typed_json.decode(data, msgspec.json.Decoder(body_type))
    except msgspec.ValidationError as error:
        raise InvalidRequest(typed_json.told(str(error))[1], pointer=_pointer(str(error))) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", pointer="") from None


def schema(body_type: type[msgspec.Struct]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads this body itself."""
    BODIES[body_type.__name__] = body_type
    (_,), components = msgspec.json.schema_components([body_type], ref_template=_REFERENCE)
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": components[body_type.__name__]}}}
    }


def body_schemas() -> dict[str, Any]:
    """Components for the OpenAPI document: of all bodies that routes read, with the types inside them."""
    return msgspec.json.schema_components(BODIES.values(), ref_template=_REFERENCE)[1]


def _pointer(complaint: str) -> str:
    """msgspec's `$.tags[0]` as RFC 6901's /tags/0; a missing or unknown field is named in the message."""
    message, _, path = complaint.partition(" - at `")
    field = re.search(r"(?:unknown|required) field `([^`]*)`", message)
    steps = re.findall(r"\.([^.\[]+)|\[([^\]]*)\]", path.rstrip("`"))
    names = [name or index for name, index in steps] + ([field[1]] if field else [])
    return "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in names)


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge(f"The JSON body is larger than {MAX_JSON_BYTES} bytes.")
