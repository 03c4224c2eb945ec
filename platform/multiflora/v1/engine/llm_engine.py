"""`from multiflora.v1.engine.llm_engine import LLMEngine`, as vLLM's programs write it."""

from __future__ import annotations

from multiflora.engine.llm_engine import LLMEngine

__all__ = ["LLMEngine"]
