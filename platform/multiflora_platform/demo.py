"""The bundled demo's folder, and what its adapters are called. Does not know the registry."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from multiflora_platform.settings import ConfigurationError

MODEL_NAME = "multiflora-demo"
# Inside an installed package, and in a checkout.
_PLACES = (Path(__file__).parent / "demo", Path(__file__).parents[2] / "examples" / "demo")


@dataclass(frozen=True)
class DemoAdapter:
    """One bundled adapter, as the demo's adapters.json describes it."""

    name: str
    path: Path
    description: str
    tags: tuple[str, ...]
    # A message that shows what the adapter does.
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
