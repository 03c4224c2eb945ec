"""GET /docs: the OpenAPI document as one plain page. Loads nothing from elsewhere, so that it works offline."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

router = APIRouter(include_in_schema=False)
_POLICY = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
body { color: #1b1b1b; background: #fff; }
h2 { margin-top: 2.5rem; } h3 { font: 600 1rem ui-monospace, monospace; margin: 1.5rem 0 0; } p { margin: .3rem 0; }
pre { background: #f3f3f3; padding: .75rem; overflow-x: auto; } b { display: inline-block; min-width: 4.5rem; }
@media (prefers-color-scheme: dark) { body { color: #e8e8e8; background: #161616; } pre { background: #242424; }
a { color: #8ab4ff; } }
"""


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    return HTMLResponse(render(request.app.openapi()), headers=_POLICY)


def render(document: Mapping[str, Any]) -> str:
    """document: of OpenAPI 3. A page of HTML."""
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    return "\n".join(
        [
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>',
            f"<h1>{title}</h1><p>Every call except /health and this page needs",
            "<code>Authorization: Bearer &lt;key&gt;</code>. For programs <a href=/openapi.json>/openapi.json</a>.</p>",
            *_calls(document),
            "<h2>schemas</h2>",
            *(
                f'<h3 id="{escape(name)}">{escape(name)}</h3>{_schema(schema)}'
                for name, schema in sorted(document.get("components", {}).get("schemas", {}).items())
            ),
            "</body></html>",
        ]
    )


def _calls(document: Mapping[str, Any]) -> Iterator[str]:
    """All calls, those of a tag together."""
    by_tag: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, call in methods.items():
            tag = (call.get("tags") or ["other"])[0]
            by_tag.setdefault(tag, []).append(_call(method.upper(), path, call))
    for tag, calls in by_tag.items():
        yield f"<h2>{escape(tag)}</h2>"
        yield from calls


def _call(method: str, path: str, call: Mapping[str, Any]) -> str:
    parts = [f"<h3><b>{method}</b> {escape(path)}</h3>", f"<p>{escape(call.get('description', ''))}</p>"]
    names = [f"<code>{escape(p['name'])}</code> ({escape(p['in'])})" for p in call.get("parameters", ())]
    if names:
        parts.append(f"<p>Parameters: {', '.join(names)}</p>")
    for kind, content in call.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Body, {escape(kind)}:</p>{_schema(content['schema'])}")
    return "\n".join(parts)


def _schema(schema: Mapping[str, Any]) -> str:
    if name := str(schema.get("$ref", "")).rsplit("/", 1)[-1]:
        return f'<p><a href="#{escape(name)}">{escape(name)}</a></p>'
    return f"<pre>{escape(json.dumps(schema, indent=1, ensure_ascii=False))}</pre>"
