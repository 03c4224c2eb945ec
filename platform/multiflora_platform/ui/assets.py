"""The UI's files, read once, compressed once, known by one digest of them all. Does not know HTTP.

Every file's address holds the digest, so that a browser may keep it for ever and never mixes two releases.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from multiflora_platform.ui.documentation import documentation

FOLDER = Path(__file__).parent / "static"
MEDIA_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".md": "text/markdown; charset=utf-8",
}
# Published as a script alone where it is minified: served with an export behind it.
_CHARTS = "vendor/uPlot.iife.min.js"
# What the vendored modules call each other, and where it lies; the files stay as their authors published them.
_IMPORTS = {
    "preact": "vendor/preact.mjs",
    "preact/hooks": "vendor/hooks.mjs",
    "@preact/signals": "vendor/signals.mjs",
    "@preact/signals-core": "vendor/signals-core.mjs",
    "htm": "vendor/htm.mjs",
    "uplot": _CHARTS,
    "marked": "vendor/marked.esm.js",
}
# Served as one file, in this order.
_STYLES = ("vendor/uPlot.min.css", *(f"css/{name}.css" for name in ("tokens", "base", "layout", "components", "pages")))
# Of a language: served with what it imports as one file, which is a sixth smaller.
_CATALOGUE = re.compile(r"words/\w+\.js")
_IMPORT_LINE = re.compile(rb"^import .*\n", re.MULTILINE)
# Whole lines of our own files that no browser needs: comments are a tenth of what travels.
_COMMENTS = re.compile(rb"^[ \t]*(?:/\*.*?\*/[ \t]*|//[^\n]*)\n", re.MULTILINE | re.DOTALL)
_IMPORT = re.compile(r"""(?:\bfrom|^import)\s*["']([^"']+)["']""", re.MULTILINE)


@dataclass(frozen=True)
class Asset:
    """One file, ready to be sent."""

    body: bytes
    # None where compression does not pay.
    gzipped: bytes | None
    media_type: str
    etag: str

    @classmethod
    def of(cls, body: bytes, media_type: str) -> Asset:
        small = gzip.compress(body, 9, mtime=0)
        etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        return cls(body, small if len(small) < 0.9 * len(body) else None, media_type, etag)


@dataclass(frozen=True)
class Bundle:
    """All of the UI in one release; `bundle` fills it."""

    # The address that all files stand below; it holds the digest of them all.
    base: str
    # The one HTML page.
    page: Asset
    # Its Content-Security-Policy.
    policy: str
    # By path below `base`.
    files: Mapping[str, Asset]


@cache
def bundle(folder: Path = FOLDER) -> Bundle:
    """Read all files below the folder, and the documentation; index.html becomes the page."""
    bodies = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in MEDIA_TYPES
    }
    for name in bodies:
        if name.endswith((".js", ".css")) and not name.startswith("vendor/"):
            bodies[name] = _COMMENTS.sub(b"", bodies[name])
    bodies |= documentation()
    bodies["style.css"] = b"\n".join(bodies.pop(name) for name in _STYLES if name in bodies)
    if _CHARTS in bodies:
        bodies[_CHARTS] += b"\nexport default uPlot;\n"
    for name in filter(_CATALOGUE.fullmatch, list(bodies)):
        parts = [part for part in bodies if part.startswith(name.removesuffix(".js") + "/")]
        bodies[name] = b"".join([*map(bodies.pop, parts), _IMPORT_LINE.sub(b"", bodies[name])])
    template = (folder / "index.html").read_text(encoding="utf-8")
    digest = hashlib.sha256(template.encode())
    for name, body in bodies.items():
        digest.update(f"{name}\0{len(body)}\0".encode() + body)
    base = f"/ui/assets/{digest.hexdigest()[:16]}/"
    import_map = json.dumps({"imports": {name: base + path for name, path in _IMPORTS.items()}})
    boot = bodies.pop("boot.js").decode()
    page = template.replace("{base}", base).replace("{import_map}", import_map).replace("{boot}", boot)
    preloads = (f'<link rel="modulepreload" href="{base}{name}">' for name in sorted(needed_first(bodies)))
    page = page.replace("{preloads}", "\n".join(preloads))
    files = {name: Asset.of(body, MEDIA_TYPES[Path(name).suffix]) for name, body in bodies.items()}
    return Bundle(base, Asset.of(page.encode(), "text/html; charset=utf-8"), _policy(import_map, boot), files)


def needed_first(bodies: Mapping[str, bytes], entry: str = "app.js") -> set[str]:
    """The entry and all that it imports, directly or not: to name them up front saves a round trip for each level."""
    found: set[str] = set()
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [_resolved(name, wanted) for wanted in _IMPORT.findall(bodies[name].decode())]
    return found


def _resolved(importer: str, wanted: str) -> str:
    return _IMPORTS.get(wanted) or posixpath.normpath(posixpath.join(posixpath.dirname(importer), wanted))


def _policy(*scripts: str) -> str:
    """Nothing from elsewhere, no inline code but these scripts, no HTML made of strings but the one named policy's."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    inline = " ".join(f"'sha256-{digest}'" for digest in digests)
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src 'self' {inline}",
            "style-src 'self'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "form-action 'none'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types model-card",
        ]
    )
