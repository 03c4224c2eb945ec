"""What is asked for and is not there: a program is told why, or which name it may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

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


def names_the_nearest(function: Callable[P, R]) -> Callable[P, R]:
    """For functions: a keyword that is none of theirs is a TypeError with the one that was perhaps meant."""
    names = signature(function).parameters.keys() - {"self"}

    @wraps(function)
    def called(*args: P.args, **given: P.kwargs) -> R:
        check_keywords(f"{function.__name__}()", given, names)
        return function(*args, **given)

    return called


class NamesTheNearest(type):
    """The same for what a dataclass is made of."""

    def __call__(cls, *args: Any, **given: Any) -> Any:
        check_keywords(cls.__name__, given, signature(vars(cls)["__init__"]).parameters.keys() - {"self"})
        return super().__call__(*args, **given)


def check_keywords(owner: str, given: Iterable[str], names: Collection[str]) -> None:
    """Raises TypeError for what is not among the names."""
    unknown = next((name for name in given if name not in names), None)
    if unknown is not None:
        near = difflib.get_close_matches(unknown, sorted(names), n=1)
        raise TypeError(f"{owner} has no argument {unknown!r}{f'; did you mean {near[0]!r}?' if near else ''}")
