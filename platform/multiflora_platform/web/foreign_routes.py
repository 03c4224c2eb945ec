"""Routes of other servers that are none here, and what to call instead: a 404 says so."""

from __future__ import annotations

_COMPLETIONS = "POST /v1/completions, with the adapter's name as model"
_CHAT = "POST /v1/chat/completions"
_MODELS = "GET /v1/models"
_LOAD = "POST /v1/load_lora_adapter, or POST /api/v1/adapters/{name}/versions"
_ADAPTERS = "GET /api/v1/adapters"
_INFO = f"{_MODELS}, and GET /version"
_INSTEAD = {
    # TGI, LoRAX, SGLang, vLLM's demonstration server
    "/generate": _COMPLETIONS,
    "/generate_stream": f"{_COMPLETIONS} and stream: true",
    "/chat_tokenize": "POST /tokenize with messages",
    "/info": _INFO,
    "/invocations": _CHAT,
    "/v1/lora_adapters": _ADAPTERS,
    "/load_lora_adapter": _LOAD,
    "/unload_lora_adapter": "POST /v1/unload_lora_adapter",
    "/get_model_info": _INFO,
    "/model_info": _INFO,
    "/get_server_info": "GET /version, /api/v1/replicas and /metrics",
    "/server_info": "GET /version, /api/v1/replicas and /metrics",
    "/flush_cache": "POST /api/v1/cache/{hash}:drop for what shall go",
    "/encode": "POST /v1/embeddings",
    "/classify": "POST /v1/embeddings or /v1/score: a causal model has no head for classes",
    # Ollama
    "/api/generate": _COMPLETIONS,
    "/api/chat": _CHAT,
    "/api/tags": _MODELS,
    "/api/ps": "GET /api/v1/replicas",
    "/api/show": _MODELS,
    "/api/embed": "POST /v1/embeddings",
    "/api/embeddings": "POST /v1/embeddings",
    "/api/version": "GET /version",
}


def no_route(path: str) -> str:
    """What a client is told that called for it."""
    instead = _INSTEAD.get(path.rstrip("/"))
    told = f"There is no {path[:200]}"
    return f"{told}; call {instead}." if instead is not None else f"{told}; GET /docs lists every call."
