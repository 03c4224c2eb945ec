"""Which adapters a tenant may use."""

from __future__ import annotations

import pytest

from multiflora_platform.auth.policies import Policy


@pytest.mark.parametrize(
    ("patterns", "allowed", "refused"),
    [
        (("*",), ["sql", "a.b-c", ""], []),
        ((), [], ["sql", ""]),
        (("sql", "chat-*"), ["sql", "chat-", "chat-1"], ["sql2", "my-sql", "SQL", "chat", "sql\n"]),
        (("a.b", "[xy]1", "t?"), ["a.b", "x1", "ts"], ["axb", "z1", "t", "[xy]1"]),
    ],
)
def test_a_name_is_allowed_by_any_of_the_patterns_as_a_whole(
    patterns: tuple[str, ...], allowed: list[str], refused: list[str]
) -> None:
    policy = Policy(allowed_adapters=patterns)
    assert [name for name in [*allowed, *refused] if policy.allows(name)] == allowed
