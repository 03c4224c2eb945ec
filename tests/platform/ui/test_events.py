"""Every event and every action of the audit has its words in the UI."""

from __future__ import annotations

import re
from pathlib import Path

from multiflora_platform import settings
from multiflora_platform.ui.assets import FOLDER

PLATFORM = Path(settings.__file__).parent
SAID = re.compile(r'\b(?:_?record|tell)\(\s*f?"([a-z_]+)\.([a-z_{]+)')
# Of names that are put together, and of constants.
FURTHER = (
    "protected unprotected started adjusted stepped promoted rolled_back aborted superseded load unload pin unpin drop "
    "created changed updated deleted moved raised cleared run_queued run_completed run_cancelled run_failed "
    "budget_warning split_degraded in_progress finalizing completed failed expired cancelled rejected opened"
)


def test_every_event_has_its_words() -> None:
    said = {pair for path in PLATFORM.rglob("*.py") for pair in SAID.findall(path.read_text(encoding="utf-8"))}
    assert len(said) > 30
    nouns, verbs = (
        set(re.findall(r"\b([a-z_]+): t\(", block))
        for block in (FOLDER / "lib/events.js").read_text(encoding="utf-8").split("const ")[1:3]
    )
    assert {noun for noun, _ in said} | {"cache", "alert", "session"} <= nouns
    assert {verb for _, verb in said if "{" not in verb} | {*FURTHER.split()} <= verbs
