"""`from multiflora.sampling_params import …`, as vLLM's programs write it."""

from __future__ import annotations

from multiflora.offline.beam_search import BeamSearchParams
from multiflora_engine.protocol.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

__all__ = [
    "BeamSearchParams",
    "GuidedDecodingParams",
    "RequestOutputKind",
    "SamplingParams",
    "StructuredOutputsParams",
]


class GuidedDecodingParams(StructuredOutputsParams, frozen=True, kw_only=True):
    """vLLM's older name for StructuredOutputsParams, for `SamplingParams(guided_decoding=…)`. backend and the two
    after it: llguidance follows every format."""

    backend: str | None = None
    disable_fallback: bool = False
    backend_was_auto: bool = False
