"""`from multiflora.inputs import TokensPrompt`, as vLLM's programs write it."""

from __future__ import annotations

from multiflora.request_maker import Prompt, TextPrompt, TokensPrompt

PromptType = Prompt
__all__ = ["PromptType", "TextPrompt", "TokensPrompt"]
