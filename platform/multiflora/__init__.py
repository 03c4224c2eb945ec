"""The public face: `from multiflora import LLM, SamplingParams`. Each name is imported when it is first asked for.

`import multiflora.client` therefore loads no engine, no tokenizer and no torch; torch comes with the first LLM made.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiflora.adapters import AdapterRejected
    from multiflora.engine.arg_utils import AsyncEngineArgs, EngineArgs
    from multiflora.engine.async_llm_engine import AsyncLLMEngine
    from multiflora.engine.background import EngineDeadError
    from multiflora.engine.llm_engine import LLMEngine
    from multiflora.llm import LLM
    from multiflora.lora_request import LoRARequest
    from multiflora.offline.beam_search import BeamSearchParams
    from multiflora.offline.pooling import (
        EmbeddingOutput,
        EmbeddingRequestOutput,
        PoolingOutput,
        PoolingRequestOutput,
        ScoringOutput,
        ScoringRequestOutput,
    )
    from multiflora.outputs import CompletionOutput, Logprob, RequestOutput
    from multiflora.pooling_params import PoolingParams
    from multiflora.request_maker import TextPrompt, TokensPrompt
    from multiflora_engine.protocol.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

__all__ = [
    "LLM",
    "AdapterRejected",
    "AsyncEngineArgs",
    "AsyncLLMEngine",
    "BeamSearchParams",
    "CompletionOutput",
    "EmbeddingOutput",
    "EmbeddingRequestOutput",
    "EngineArgs",
    "EngineDeadError",
    "LLMEngine",
    "LoRARequest",
    "Logprob",
    "PoolingOutput",
    "PoolingParams",
    "PoolingRequestOutput",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "ScoringOutput",
    "ScoringRequestOutput",
    "StructuredOutputsParams",
    "TextPrompt",
    "TokensPrompt",
]
_MODULES = {
    "LLM": "multiflora.llm",
    "AdapterRejected": "multiflora.adapters",
    "AsyncEngineArgs": "multiflora.engine.arg_utils",
    "AsyncLLMEngine": "multiflora.engine.async_llm_engine",
    "EngineArgs": "multiflora.engine.arg_utils",
    "EngineDeadError": "multiflora.engine.background",
    "LLMEngine": "multiflora.engine.llm_engine",
    "LoRARequest": "multiflora.lora_request",
    "BeamSearchParams": "multiflora.offline.beam_search",
    "CompletionOutput": "multiflora.outputs",
    "Logprob": "multiflora.outputs",
    "RequestOutput": "multiflora.outputs",
    "RequestOutputKind": "multiflora_engine.protocol.sampling_params",
    "SamplingParams": "multiflora_engine.protocol.sampling_params",
    "StructuredOutputsParams": "multiflora_engine.protocol.sampling_params",
    "EmbeddingOutput": "multiflora.offline.pooling",
    "EmbeddingRequestOutput": "multiflora.offline.pooling",
    "PoolingOutput": "multiflora.offline.pooling",
    "PoolingParams": "multiflora.pooling_params",
    "PoolingRequestOutput": "multiflora.offline.pooling",
    "ScoringOutput": "multiflora.offline.pooling",
    "ScoringRequestOutput": "multiflora.offline.pooling",
    "TextPrompt": "multiflora.request_maker",
    "TokensPrompt": "multiflora.request_maker",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("multiflora")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Kept, so that the next look finds it without coming here.
    value: object = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
