"""`from multiflora.v1.engine.async_llm import AsyncLLM`, as vLLM's programs write it."""

from __future__ import annotations

from multiflora.engine.async_llm_engine import AsyncLLMEngine

AsyncLLM = AsyncLLMEngine
__all__ = ["AsyncLLM"]
