"""A version's model card: README.md as people wrote it, as HTML that is safe to show. Knows no versions."""

from __future__ import annotations

from typing import Any

import nh3
import yaml
from markdown_it import MarkdownIt

_FENCE = "---"


def render(markdown: str) -> dict[str, Any]:
    """`{metadata, markdown, html}`; metadata: the front matter as Hugging Face's cards have it, {} without one."""
    metadata, text = _split(markdown)
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(text)
    return {"metadata": metadata, "markdown": text, "html": nh3.clean(html, link_rel="noopener noreferrer nofollow")}


def _split(markdown: str) -> tuple[dict[str, Any], str]:
    lines = markdown.lstrip("\ufeff").splitlines()
    if not lines or lines[0].strip() != _FENCE or _FENCE not in (line.strip() for line in lines[1:]):
        return {}, markdown
    end = next(number for number, line in enumerate(lines[1:], start=1) if line.strip() == _FENCE)
    try:
        found = yaml.load("\n".join(lines[1:end]), Loader=_PlainLoader)
    except (yaml.YAMLError, RecursionError):
        return {}, markdown
    return (found if isinstance(found, dict) else {}), "\n".join(lines[end + 1 :]).lstrip()


class _PlainLoader(yaml.SafeLoader):
    """Everything scalar stays text, and there are no aliases, which could blow a small file up."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not read")
        return super().compose_node(parent, index)


_PlainLoader.yaml_implicit_resolvers = {}
