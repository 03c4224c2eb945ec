"""What a tenant may do and how much of it: plain data that every request carries with its principal."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

PriorityClass = Literal["high", "normal", "low"]


@dataclass(frozen=True)
class Policy:
    """allowed_adapters: shell patterns of adapter names, and of the base model's. The limits: None is without limit.

    kv_share: of all KV blocks, what the tenant may hold at the same time. shared_prefixes: its cached prefixes are one
    with those of all other tenants that opted in.
    """

    allowed_adapters: tuple[str, ...] = ("*",)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent_requests: int | None = None
    kv_share: float = 1.0
    priority: PriorityClass = "normal"
    shared_prefixes: bool = False
    disabled: bool = False

    def allows(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.allowed_adapters)


UNLIMITED = Policy()
