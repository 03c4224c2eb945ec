"""Writes platform/multiflora/client/operations.py from the OpenAPI document (`make client`).

One method for each operation, twice: for waiting and for awaiting. A test compares the file with what this writes.
"""

from __future__ import annotations

import keyword
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multiflora_platform.server.openapi import api_document
from multiflora_platform.web.json_bodies import BODIES
from multiflora_platform.web.resources import ANSWERS

TARGET = Path(__file__).parents[1] / "multiflora" / "client" / "operations.py"
_PREFIX = "/api/v1"
_SCALARS = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}
_HEAD = '''"""One method for each operation of /api/v1. Written by `make client`; do not edit."""

from __future__ import annotations
'''


@dataclass(frozen=True)
class Parameter:
    """One parameter of an operation that the method takes."""

    name: str
    # path, query or header.
    place: str
    # Source text of the annotation.
    type: str
    # Source text; None when it is required.
    default: str | None

    @property
    def argument(self) -> str:
        name = re.sub(r"\W", "_", self.name)
        return f"{name}_" if keyword.iskeyword(name) else name


@dataclass(frozen=True)
class Operation:
    """What one method is written from."""

    name: str
    method: str
    # Below /api/v1.
    path: str
    # The first paragraph of the route's docstring.
    summary: str
    parameters: tuple[Parameter, ...]
    # The type's name; None without one.
    body: str | None
    # The type's name; "None" without content.
    answer: str

    def of(self, place: str) -> list[Parameter]:
        return [parameter for parameter in self.parameters if parameter.place == place]


def operations(document: dict[str, Any]) -> list[Operation]:
    return [
        _operation(path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def source() -> str:
    """The file as it has to be."""
    found = operations(api_document())
    parts = [_HEAD, *_imports(found)]
    for name, transport, prefix, wait in (
        ("Client", "Transport", "def", ""),
        ("AsyncClient", "AsyncTransport", "async def", "await "),
    ):
        parts.append(
            f'\n\nclass {name}({transport}):\n    """/api/v1 as methods; raises ApiProblem and httpx\'s errors."""\n'
        )
        parts += ["\n".join(_method(operation, prefix, wait)) for operation in found]
    command = [sys.executable, "-m", "ruff", "format", "--line-length", "120", "-"]
    return subprocess.run(command, input="\n".join(parts), capture_output=True, text=True, check=True).stdout


def _operation(path: str, method: str, operation: dict[str, Any]) -> Operation:
    given = (_parameter(parameter) for parameter in operation.get("parameters", ()))
    # A GET's If-None-Match is for caches: a method always answers what it is asked for.
    parameters = tuple(one for one in given if (method, one.name) != ("get", "if-none-match"))
    body = (
        operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {}).get("title")
    )
    description = operation.get("description") or operation["operationId"].replace("_", " ").capitalize() + "."
    summary = description.split("\n\n")[0].replace("\n", " ").strip()
    return Operation(
        operation["operationId"],
        method.upper(),
        path.removeprefix(_PREFIX),
        summary,
        parameters,
        body,
        _answer(operation["responses"]),
    )


def _parameter(parameter: dict[str, Any]) -> Parameter:
    schema = parameter["schema"]
    value = schema.get("default")
    default = None if parameter.get("required") else repr(tuple(value) if isinstance(value, list) else value)
    return Parameter(parameter["name"], parameter["in"], _type(schema), default)


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " | ".join("None" if part.get("type") == "null" else _type(part) for part in schema["anyOf"])
    if schema.get("type") == "array":
        return f"Sequence[{_type(schema['items'])}]"
    if "enum" in schema:
        return f"Literal{schema['enum']}"
    return _SCALARS[schema["type"]]


def _answer(responses: dict[str, Any]) -> str:
    for status, response in responses.items():
        if status.startswith("2") and "content" in response:
            return str(response["content"]["application/json"]["schema"]["$ref"]).rsplit("/", 1)[-1]
    return "None"


def _imports(found: list[Operation]) -> Iterator[str]:
    modules: dict[str, set[str]] = {"multiflora.client.transport": {"AsyncTransport", "Transport", "quoted"}}
    for operation in found:
        for name, known in ((operation.body, BODIES), (operation.answer, ANSWERS)):
            if name not in (None, "None"):
                modules.setdefault(known[str(name)].__module__, set()).add(str(name))
    yield "from collections.abc import Sequence\nfrom typing import Literal\n"
    yield "".join(f"from {module} import {', '.join(sorted(modules[module]))}\n" for module in sorted(modules))


def _method(operation: Operation, prefix: str, wait: str) -> Iterator[str]:
    path, query, header = (operation.of(place) for place in ("path", "query", "header"))
    arguments = ["self", *(f"{parameter.argument}: {parameter.type}" for parameter in path)]
    if operation.body:
        arguments.append(f"body: {operation.body}")
    named = [
        f"{parameter.argument}: {parameter.type}" + (f" = {parameter.default}" if parameter.default else "")
        for parameter in (*query, *header)
    ]
    arguments += ["*", *named] if named else []
    yield f"    {prefix} {operation.name}({', '.join(arguments)}) -> {operation.answer}:"
    yield f'        """{operation.summary}"""'
    target = re.sub(r"\{(\w+)\}", r"{quoted(\1)}", operation.path)
    call = [repr(operation.method), f'f"{target}"' if path else f'"{target}"', operation.answer]
    if query:
        call.append(f"query={{{', '.join(f'{parameter.name!r}: {parameter.argument}' for parameter in query)}}}")
    if header:
        call.append(f"headers={{{', '.join(f'{parameter.name!r}: {parameter.argument}' for parameter in header)}}}")
    if operation.body:
        call.append("body=body")
    verb = "" if operation.answer == "None" else "return "
    yield f"        {verb}{wait}self.call({', '.join(call)})\n"


if __name__ == "__main__":
    TARGET.write_text(source(), encoding="utf-8")
