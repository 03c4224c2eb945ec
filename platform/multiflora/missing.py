"""What vLLM's classes have and ours have not, and why: a program that asks for it is told the reason."""

from __future__ import annotations

_NO_HEAD = "a causal model has no head for it; embed() and score() compare texts"
_NO_PROFILER = "there is no profiler; get_metrics() and output.metrics have counts and times"
_OWN_ENGINE = "the engine is built in and runs no code of its caller"
_RUNS_ON = "requests run until they end; abort() ends them, and LLM.sleep() puts an idle engine's weights aside"
_OF_VLLM = {
    "classify": _NO_HEAD,
    "reward": _NO_HEAD,
    "start_profile": _NO_PROFILER,
    "stop_profile": _NO_PROFILER,
    "apply_model": _OWN_ENGINE,
    "collective_rpc": _OWN_ENGINE,
    "llm_engine": "an LLM has no engine inside; LLMEngine has add_request() and step()",
    "renderer": "prompts are given as they are: text, token ids, or messages to chat()",
    "pause_generation": _RUNS_ON,
    "resume_generation": _RUNS_ON,
    "get_model_config": "get_tokenizer() has the tokenizer; transformers.AutoConfig reads the model's config.json",
}


def missing(owner: object, name: str) -> AttributeError:
    """For `__getattr__`, which Python calls for what is not there."""
    told = f"{type(owner).__name__!r} object has no attribute {name!r}"
    return AttributeError(f"{told}: {_OF_VLLM[name]}" if name in _OF_VLLM else told, name=name, obj=owner)
