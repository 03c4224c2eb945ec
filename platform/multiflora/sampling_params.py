"""`from multiflora.sampling_params import …`, as vLLM's programs write it."""

from __future__ import annotations

from multiflora.offline.beam_search import BeamSearchParams
from multiflora_engine.protocol.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

__all__ = ["BeamSearchParams", "RequestOutputKind", "SamplingParams", "StructuredOutputsParams"]
