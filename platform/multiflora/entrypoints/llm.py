"""`from multiflora.entrypoints.llm import LLM`, as vLLM's programs write it."""

from __future__ import annotations

from multiflora.llm import LLM

__all__ = ["LLM"]
