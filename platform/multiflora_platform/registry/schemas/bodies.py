"""JSON bodies of /api: their fields, limits, and errors that point at the place. Unknown fields are refused."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from starlette.requests import Request

from multiflora_platform.registry.rows.adapters import AdapterFields
from multiflora_platform.registry.errors import InvalidRequest, PayloadTooLarge, UnsupportedMedia
from multiflora_platform.registry.schemas.version_metadata import Eval, Lineage, VersionDetails

MAX_JSON_BYTES = 1 << 20
# Those that routes read, by name.
_REFERENCE = "#/components/schemas/{name}"
BODIES: dict[str, type[msgspec.Struct]] = {}


class Body(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    pass


B = TypeVar("B", bound=msgspec.Struct)


class NewAdapter(Body, frozen=True):
    name: str
    description: str = ""
    tags: list[str] = []
    demo_prompt: str | None = None
    warmup_prompts: list[str] = []

    @property
    def fields(self) -> AdapterFields:
        return AdapterFields(self.description, self.tags, self.demo_prompt, self.warmup_prompts)


class AdapterPatch(Body, frozen=True):
    """A field that is absent stays; null clears it."""

    description: str | UnsetType | None = UNSET
    tags: list[str] | UnsetType | None = UNSET
    demo_prompt: str | UnsetType | None = UNSET
    warmup_prompts: list[str] | UnsetType | None = UNSET

    @property
    def fields(self) -> AdapterFields:
        return AdapterFields(
            None if self.description is UNSET else self.description or "",
            None if self.tags is UNSET else self.tags or (),
            None if self.demo_prompt is UNSET else self.demo_prompt or "",
            None if self.warmup_prompts is UNSET else self.warmup_prompts or (),
        )


class VersionSource(Body, frozen=True):
    """Beside the source, what VersionDetails has."""

    source: str
    description: str = ""
    tags: list[str] = []
    lineage: Lineage = Lineage()
    evals: list[Eval] = []

    @property
    def details(self) -> VersionDetails:
        """Raises InvalidRequest."""
        return VersionDetails(self.description, self.tags, self.lineage, self.evals).check()


class AliasTarget(Body, frozen=True):
    """Exactly one of the two."""

    version: int | UnsetType = UNSET
    split: dict[str, int] | UnsetType = UNSET

    @property
    def target(self) -> dict[str, Any]:
        if (self.version is UNSET) == (self.split is UNSET):
            raise InvalidRequest('Send either {"version": 3} or {"split": {"3": 90, "4": 10}}.', pointer="")
        return {"split": self.split} if self.version is UNSET else {"version": self.version}


class CommandTarget(Body, frozen=True):
    """None: the version that `model=name` means."""

    version: int | None = None


def content_type(request: Request) -> str:
    return request.headers.get("content-type", "")


def is_json(request: Request) -> bool:
    kind = content_type(request).partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


async def read_json(request: Request, body_type: type[B]) -> B:
    """Raises UnsupportedMedia, PayloadTooLarge (by Content-Length, before reading), InvalidRequest with a pointer."""
    if not is_json(request):
        raise UnsupportedMedia("Send JSON, with Content-Type: application/json.", pointer="Content-Type")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > MAX_JSON_BYTES:
        raise _too_large()
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_JSON_BYTES:
            raise _too_large()
    try:
        return msgspec.json.decode(bytes(data), type=body_type)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `")
        raise InvalidRequest(f"{message}.", pointer=_pointer(message, path.rstrip("`"))) from None
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


def _pointer(message: str, path: str) -> str:
    """msgspec's `$.tags[0]` as RFC 6901's /tags/0; a missing or unknown field is named in the message."""
    field = re.search(r"(?:unknown|required) field `([^`]*)`", message)
    steps = re.findall(r"\.([^.\[]+)|\[([^\]]*)\]", path)
    names = [name or index for name, index in steps] + ([field[1]] if field else [])
    return "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in names)


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge(f"The JSON body is larger than {MAX_JSON_BYTES} bytes.")
