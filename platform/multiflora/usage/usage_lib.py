"""`from multiflora.usage.usage_lib import UsageContext`, as vLLM's programs write it."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["UsageContext"]


class UsageContext(StrEnum):
    """What a program says of itself when it makes an engine. An engine here reports its usage to no server."""

    UNKNOWN_CONTEXT = "UNKNOWN_CONTEXT"
    LLM_CLASS = "LLM_CLASS"
    API_SERVER = "API_SERVER"
    OPENAI_API_SERVER = "OPENAI_API_SERVER"
    OPENAI_BATCH_RUNNER = "OPENAI_BATCH_RUNNER"
    ENGINE_CONTEXT = "ENGINE_CONTEXT"
