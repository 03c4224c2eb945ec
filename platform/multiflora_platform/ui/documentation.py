"""The documentation as the UI shows it: its Markdown files as they are, and an index of them. Does not know HTTP."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

# Inside an installed package, and in a checkout.
_PLACES = (Path(__file__).parent / "docs", Path(__file__).parents[3] / "docs")
_HEADING = re.compile(r"^(#{1,6}) +(.+?) *#*$")
_FENCE = re.compile(r"^(```|~~~)")


def documentation(folder: Path | None = None) -> dict[str, bytes]:
    """Each file's bytes by its path, such as docs/rollouts.md, and docs/index.json: for each page its path, title and
    headings with their levels and anchors, in the order they stand in.

    folder: None for this release's own.
    """
    folder = folder or next(place for place in _PLACES if place.is_dir())
    pages = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.md"))}
    index = [_entry(path, body.decode()) for path, body in pages.items()]
    return {f"docs/{path}": body for path, body in pages.items()} | {"docs/index.json": json.dumps(index).encode()}


def _entry(path: str, text: str) -> dict[str, object]:
    (_, title, _), *headings = _headings(text)
    return {"path": path, "title": title, "headings": headings}


def _headings(text: str) -> Iterator[tuple[int, str, str]]:
    """Level, text and anchor of each; the anchors are those that GitHub makes, so that a link works there and here."""
    fenced = False
    seen: dict[str, int] = {}
    for line in text.splitlines():
        fenced ^= _FENCE.match(line) is not None
        found = _HEADING.match(line)
        if found and not fenced:
            words = found[2].replace("`", "")
            anchor = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            times = seen[anchor] = seen.get(anchor, -1) + 1
            yield len(found[1]), words, f"{anchor}-{times}" if times else anchor
