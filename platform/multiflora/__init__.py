"""The public face: `from multiflora import LLM, SamplingParams`. Importing it loads no torch; making an LLM does."""

from __future__ import annotations

from multiflora.adapters import AdapterRejected
from multiflora.llm import LLM
from multiflora.outputs import CompletionOutput, RequestOutput
from multiflora_engine.protocol.requests import SamplingParams, StructuredOutputsParams

__all__ = ["LLM", "AdapterRejected", "CompletionOutput", "RequestOutput", "SamplingParams", "StructuredOutputsParams"]
