"""`from multiflora.lora.request import LoRARequest`, as vLLM's programs write it."""

from __future__ import annotations

from multiflora.lora_request import LoRARequest

__all__ = ["LoRARequest"]
