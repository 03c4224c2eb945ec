"""Where the bundled demo lies, and what its adapters are called. Knows nothing of the registry."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from multiflora_platform.settings import ConfigurationError

MODEL_NAME = "multiflora-demo"
_PLACES = (Path(__file__).parent / "demo", Path(__file__).parents[2] / "examples" / "demo")


@dataclass(frozen=True)
class DemoAdapter:
    """One bundled adapter; demo_prompt is a message that shows what it does."""

    name: str
    path: Path
    description: str
    tags: tuple[str, ...]
    demo_prompt: str


def demo_folder() -> Path:
    """The folder with base/ and adapters/: inside an installed package, or in a checkout."""
    for folder in _PLACES:
        if (folder / "base" / "config.json").is_file():
            return folder
    raise ConfigurationError("the bundled demo is not installed; give a model: multiflora serve MODEL")


def demo_adapters(folder: Path) -> list[DemoAdapter]:
    entries = json.loads((folder / "adapters.json").read_text(encoding="utf-8"))
    return [
        DemoAdapter(
            name=entry["name"],
            path=folder / "adapters" / entry["name"],
            description=entry["description"],
            tags=tuple(entry["tags"]),
            demo_prompt=entry["demo_prompt"],
        )
        for entry in entries
    ]
