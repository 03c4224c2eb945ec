"""How values are read on a terminal: neither JSON nor whole digests, and nothing that a terminal would obey."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from multiflora_platform.cli.terminal.cells import cell, line, short, target

DIGEST = "0123456789abcdef" * 4
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (True, "yes"),
        (3, "3"),
        (0.071234567, "0.07123"),
        (123456.7, "123457"),
        (["a", "b"], "a, b"),
        ([], ""),
        (DIGEST, "0123456789ab"),
        ({"alias": "default", "to": {"version": 1}}, "alias=default, to=(version=1)"),
        ([{"digest": DIGEST, "tags": ["x", "y"]}], "(digest=0123456789ab, tags=(x, y))"),
        ("2026-03-01T09:08:07.123456+00:00", "2026-03-01T09:08:07Z"),
        ("red\x1b[31m\nalert", "red [31m alert"),
    ],
)
def test_a_value_is_one_line_without_json(value: Any, shown: str) -> None:
    assert cell("field", value) == shown


def test_sizes_have_units_and_a_digest_alone_is_whole() -> None:
    assert [cell("bytes", count) for count in (0, 1023, 462904, 5 << 30)] == ["0 B", "1023 B", "452 KiB", "5 GiB"]
    assert line("digest", DIGEST) == DIGEST


@pytest.mark.parametrize(
    ("moment", "shown"),
    [
        ("2026-03-01T09:08:07Z", "09:08:07Z"),
        ("2026-02-28T09:08:07Z", "02-28 09:08Z"),
        ("2027-01-01T00:00:00Z", "2027-01-01"),
        ("default", "default"),
    ],
)
def test_a_terminal_tells_of_a_moment_what_differs_from_now(moment: str, shown: str) -> None:
    assert short(moment, NOW) == shown


def test_an_alias_points_to_a_version_or_to_shares() -> None:
    assert target({"version": 3}) == "3"
    assert target({"split": {"3": 90, "4": 10}}) == "3: 90%, 4: 10%"
