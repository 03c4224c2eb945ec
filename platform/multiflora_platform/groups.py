"""Base models, each as a group: its replicas, and the tokenizer, formats and grammars that its requests need.

Holds what a group is and which there are; how one is made, drained and ended is base_models/'s.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from multiflora_platform.engine import EngineHandle
from multiflora_platform.messages.reasoning import ReasoningFormat
from multiflora_platform.messages.tool_formats import HARMONY, ToolFormat
from multiflora_platform.structured.compiler import GrammarCompiler
from multiflora_platform.text.tokenizer import Tokenizer
from multiflora_platform.traffic import Traffic


@dataclass(frozen=True)
class ServedModel:
    """The base model, as `open_model` reads it from its folder and the settings before the engine runs."""

    name: str
    """What clients call it; of several names, the one that the banner and metrics show."""
    root: str
    """Its id or path, as the operator gave it."""
    tokenizer: Tokenizer
    vocab_size: int
    max_model_len: int
    """Of the settings or the model's configuration; once the engine is ready, `longest` has what it chose."""
    created: int
    """Unix seconds."""
    generation_defaults: Mapping[str, Any] = field(default_factory=dict)
    """temperature, top_p, top_k, min_p, repetition_penalty, max_new_tokens: those that generation_config.json has."""
    eos_token_ids: frozenset[int] = frozenset()
    """Each of them ends an answer."""
    length_sets_rope: bool = False
    """The engine's length decides how positions are rotated, and with it every number."""
    tool_format: ToolFormat | None = None
    """How the model writes tool calls; None when no --tool-call-parser fits it."""
    reasoning_format: ReasoningFormat | None = None
    """How the model marks its reasoning; None without a --reasoning-parser."""

    other_names: tuple[str, ...] = ()
    """Clients may call it by these, too."""
    path: str | None = None
    """The folder as the operator gave it: a name as well, as in vLLM, but never listed."""

    @property
    def writes_channels(self) -> bool:
        """Reasoning, calls and text come as messages of their own, each with its channel."""
        return self.tool_format is HARMONY

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.other_names)

    def known_as(self, model: str) -> str:
        """The first name for any of the base model's, and the adapter's of `base:adapter`, which is other servers'
        form; other names stay as they are."""
        if model == self.path or model in self.other_names:
            return self.name
        base, colon, adapter = model.rpartition(":")  # an adapter's name has no colon, the base model's may
        return adapter if colon and adapter and base in self.names and model not in self.names else model

    @property
    def default_max_tokens(self) -> int | None:
        """How long an answer becomes where neither the request nor its route says so; None: as long as fits."""
        length: int | None = self.generation_defaults.get("max_new_tokens")
        return length

    def longest(self, engine: EngineHandle) -> int:
        """Tokens of prompt and answer together: the model's length, or what all KV blocks hold."""
        ready = engine.ready
        if ready is None:
            return self.max_model_len
        return min(ready.max_model_len, ready.num_blocks * ready.block_size)


class Waker(Protocol):
    """Starts the engines of a group that sleeps while no request comes."""

    asleep: bool

    async def wake(self) -> None:
        """Returns when one of them serves. Raises EngineFailed."""


@dataclass(eq=False)
class Group(Traffic):
    """One base model that is served. All that follows a request's resolution asks the group that it came to."""

    model: ServedModel
    base_digest: str
    """Of its weights and configuration: adapters belong to it by this."""
    engine: EngineHandle
    grammars: GrammarCompiler
    last_used: float = field(default_factory=time.monotonic)
    """time.monotonic() when a request last ended."""
    waker: Waker | None = None
    """None: its engines run as long as the server."""

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def max_model_len(self) -> int:
        return self.model.longest(self.engine)

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """While a request runs that was admitted."""
        self.request_began()
        try:
            yield
        finally:
            self.last_used = time.monotonic()
            self.request_ended()

    @property
    def asleep(self) -> bool:
        """A request has to wake it first."""
        return self.waker is not None and (self.waker.asleep or self.engine.ready is None)


class Groups:
    """All groups of a server. The default one is there from start to end; requests that name no model are its."""

    def __init__(self, default: Group) -> None:
        self.default = default
        self._groups = [default]

    def __iter__(self) -> Iterator[Group]:
        """The default one first."""
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def add(self, group: Group) -> None:
        self._groups = [*self._groups, group]

    def remove(self, group: Group) -> None:
        """From now on no request finds it."""
        self._groups = [one for one in self._groups if one is not group]

    def named(self, model: str) -> Group | None:
        """The one whose base model has this name."""
        return next((group for group in self._groups if model in group.model.names), None)

    def of_base(self, digest: str) -> Group | None:
        """The one that serves this base model, and with it the adapters that belong to it."""
        return next((group for group in self._groups if group.base_digest == digest), None)

    def known_as(self, model: str) -> str:
        """The first name for any of a base model's, and the adapter's of `base:adapter`; others stay as they are."""
        for group in self._groups:
            if (known := group.model.known_as(model)) != model:
                return known
        return model

    @property
    def names(self) -> Sequence[str]:
        """Of all base models."""
        return [name for group in self._groups for name in group.model.names]
