"""The token ids of the last prompts, so that a later one can be compared with them. In memory, and no text.

A tenant's prompts push out its own: how many it sends is nothing to the others.
"""

from __future__ import annotations

import zlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import msgspec

from multiflora_engine.protocol.requests import DocumentSpan
from multiflora_platform.engine import Life
from multiflora_platform.insight.logged_request import PromptFacts
from multiflora_platform.insight.request_log import bare_id

MOST_PROMPTS = 100
"""Of one tenant."""
MOST_TOKENS = 1 << 19
"""Of one tenant: 2 MiB."""
MOST_IN_ALL = 1 << 23
"""Of all tenants together: 32 MiB."""
OVERHEAD = 256
"""Tokens that take as much as what is kept beside a prompt's: counted in what all have together, for the sake of many
tenants with short prompts."""
_encode = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True)
class Outline:
    """Checksums of what a chat's prompt was made of: they tell whether two are equal, and nothing else."""

    messages: array[int] = field(default_factory=lambda: array("I"))
    tools: array[int] = field(default_factory=lambda: array("I"))
    """Of each tool, whatever the order of its keys."""
    options: int = 0
    """Of what else the template gets."""


@dataclass
class KeptPrompt:
    facts: PromptFacts
    ids: array[int]
    """32-bit."""
    cache_salt: str
    outline: Outline
    documents: tuple[DocumentSpan, ...] = ()
    """Those whose KV could be taken from elsewhere."""
    life: Life | None = None
    """The replica's in which it was computed; Insight fills it with its first token."""


class KeptPrompts:
    """Bounds: prompts and tokens of one tenant, and tokens of all; the oldest go first."""

    def __init__(
        self, most_prompts: int = MOST_PROMPTS, most_tokens: int = MOST_TOKENS, most_in_all: int = MOST_IN_ALL
    ) -> None:
        self._most_prompts = most_prompts
        self._most_tokens = most_tokens
        self._most_in_all = most_in_all
        self._by_tenant: dict[str | None, OrderedDict[str, KeptPrompt]] = {}
        # Whose each is, oldest first.
        self._tenants: OrderedDict[str, str | None] = OrderedDict()
        self._tokens: Counter[str | None] = Counter()
        self._in_all = 0

    def add(self, prompt: KeptPrompt) -> None:
        """One that is longer than a tenant may have is not kept."""
        id, tenant, size = prompt.facts.id, prompt.facts.tenant, len(prompt.ids)
        if size > self._most_tokens:
            return
        own = self._by_tenant.setdefault(tenant, OrderedDict())
        own[id], self._tenants[id] = prompt, tenant
        self._tokens[tenant] += size
        self._in_all += size + OVERHEAD
        while len(own) > self._most_prompts or self._tokens[tenant] > self._most_tokens:
            self._drop(next(iter(own)))
        while self._in_all > self._most_in_all:
            self._drop(next(iter(self._tenants)))

    def find(self, id: str, tenant: str | None, *, of_all: bool = False) -> KeptPrompt | None:
        """By a request's id, or by its answer's, with or without the letters before it (`chatcmpl-`, `resp_`). Of an
        answer to several prompts, the first. of_all: other tenants' prompts, too."""
        bare = bare_id(id)
        tenants = [*self._by_tenant] if of_all else [tenant]
        prompts = (one for owner in tenants for one in self.of(owner))
        return next((one for one in prompts if bare in (one.facts.id, one.facts.answer)), None)

    def of(self, tenant: str | None) -> list[KeptPrompt]:
        """The tenant's, oldest first. None: admins'."""
        return list(self._by_tenant.get(tenant, {}).values())

    def with_documents(self, tenant: str | None) -> list[KeptPrompt]:
        """Those with reused documents. tenant: whose; None: all."""
        owners = [*self._by_tenant] if tenant is None else [tenant]
        return [prompt for owner in owners for prompt in self.of(owner) if prompt.documents]

    def newest_like(self, prompt: KeptPrompt, count: int) -> Iterator[KeptPrompt]:
        """Of the tenant's, newest first, those that could share blocks with this one."""
        own = self._by_tenant.get(prompt.facts.tenant) or OrderedDict[str, KeptPrompt]()
        like = (one for one in reversed(own.values()) if _scope(one) == _scope(prompt))
        return islice(like, count)

    def has_twin(self, id: str, tenant: str | None, length: int) -> bool:
        """Whether another prompt of the tenant, of other KV, begins with the same tokens, as many as `length`."""
        own = self._by_tenant.get(tenant) or OrderedDict[str, KeptPrompt]()
        prompt = own.get(id)
        return prompt is not None and any(
            one.facts.base_digest == prompt.facts.base_digest
            and one.facts.kv_at(length - 1) != prompt.facts.kv_at(length - 1)
            and one.ids[:length] == prompt.ids[:length]
            for one in own.values()
        )

    def _drop(self, id: str) -> None:
        tenant = self._tenants.pop(id)
        own = self._by_tenant[tenant]
        size = len(own.pop(id).ids)
        self._tokens[tenant] -= size
        self._in_all -= size + OVERHEAD
        if not own:
            del self._by_tenant[tenant], self._tokens[tenant]


def _scope(prompt: KeptPrompt) -> tuple[str, str | None, str]:
    """Within which prompts share blocks."""
    return prompt.facts.base_digest, prompt.facts.kv_digest, prompt.cache_salt


def outline_of(body: msgspec.Struct) -> Outline:
    """Of a request's body, as its route reads it; of one that is no chat, nothing."""
    messages = getattr(body, "messages", None)
    if not messages:
        return Outline()
    tools = None if getattr(body, "tool_choice", None) == "none" else getattr(body, "tools", None)
    options = (
        getattr(body, "chat_template_kwargs", None) or {},
        getattr(body, "reasoning_effort", None),
        getattr(body, "documents", None),
        getattr(body, "add_generation_prompt", None) is not False,
        bool(getattr(body, "continue_final_message", None)),
    )
    try:
        sums = [array("I", map(_checksum, parts or ())) for parts in (messages, tools)]
        return Outline(sums[0], sums[1], _checksum(options))
    except (TypeError, ValueError, RecursionError, OverflowError):
        return Outline()  # what JSON cannot say


def _checksum(value: Any) -> int:
    return zlib.crc32(_encode(value))
