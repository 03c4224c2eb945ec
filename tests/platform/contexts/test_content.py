"""What a context may hold: all of it is computed as it stands, so reuse is exact."""

from __future__ import annotations

import pytest

from multiflora_platform.contexts.content import ContextContent
from multiflora_platform.web.problems import InvalidRequest


def test_reuse_is_exact_or_refused() -> None:
    for reuse in ("exact", None):
        ContextContent(messages=[{"role": "user", "content": [{"type": "text", "text": "x", "reuse": reuse}]}]).check()
        ContextContent(documents=[{"text": "x", "reuse": reuse}]).check()
    with pytest.raises(InvalidRequest):
        ContextContent(documents=[{"text": "x", "reuse": "approximate"}]).check()
