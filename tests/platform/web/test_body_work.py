"""What counts as work in a body: values, objects and escapes, and nothing that a text only mentions."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiflora_platform.web import body_work
from multiflora_platform.web.body_work import MOST_ESCAPES, too_deep, too_much

JSON = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def work(value: Any) -> tuple[int, int]:
    """(objects and lists, those and the commas and colons between values)."""
    if not isinstance(value, list | dict):
        return 0, 0
    inner = [work(item) for item in (value.values() if isinstance(value, dict) else value)]
    containers = 1 + sum(containers for containers, _ in inner)
    commas = max(0, len(value) - 1) + (len(value) if isinstance(value, dict) else 0)
    return containers, 1 + commas + sum(values for _, values in inner)


@given(JSON, st.booleans())
def test_texts_do_not_count_whatever_they_hold(value: Any, is_ascii: bool) -> None:
    content = json.dumps(value, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")
    containers, values = work(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body_work, "MOST_CONTAINERS", containers)
        assert too_much(content, values) is None
        assert values == 0 or too_much(content, values - 1) == f"more than {values - 1:,} values; send less at once"
        patch.setattr(body_work, "MOST_CONTAINERS", containers - 1)
        reason = too_much(content, values) or ""
        assert containers == 0 or reason.startswith(f"more than {containers - 1:,} objects and lists")


def test_escaped_characters_count_by_themselves() -> None:
    assert too_much(json.dumps("é" * MOST_ESCAPES).encode()) is None
    assert "send text as UTF-8" in (too_much(json.dumps("é" * (MOST_ESCAPES + 1)).encode()) or "")
    assert too_much(json.dumps("é" * (MOST_ESCAPES + 1), ensure_ascii=False).encode()) is None


@pytest.mark.parametrize("content", [b'{"a": "', b'"\\', b"\\", b"\xff[[", b'"\\\\\\"[,'])
def test_what_is_no_json_is_counted_all_the_same(content: bytes) -> None:
    assert too_much(content) is None


@given(JSON, st.integers(0, 5))
def test_depth_is_that_of_objects_and_lists_outside_of_texts(value: Any, most: int) -> None:
    content = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body_work, "MOST_DEPTH", most)
        assert too_deep(content) == (depth(value) > most)


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)
