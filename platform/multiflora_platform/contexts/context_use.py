"""What contexts are used for and cost, as sums that the database keeps."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class ContextUse:
    """What is added up of a context; its columns have the same names."""

    hits: int = 0
    """Requests that named it."""
    found_tokens: int = 0
    """Of its tokens, those that these requests found cached."""
    saved_us: int = 0
    """Microseconds of the device, estimated: that computing these would have taken."""
    again_us: int = 0
    """That were taken by tokens which had been lost."""
    stored_token_seconds: int = 0
    """Tokens that were held, times seconds, for each of its models."""

    def __add__(self, other: ContextUse) -> ContextUse:
        return ContextUse(*(getattr(self, name) + getattr(other, name) for name in USED))

    def __sub__(self, other: ContextUse) -> ContextUse:
        return ContextUse(*(getattr(self, name) - getattr(other, name) for name in USED))


USED = tuple(field.name for field in fields(ContextUse))
