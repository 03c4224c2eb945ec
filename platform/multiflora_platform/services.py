"""Everything that routes reach through `request.app.state.services`, and the server's way of ending: draining.

Holds the parts together; makes none of them (serve.py does).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from multiflora_platform.engine import EngineHandle
from multiflora_platform.groups import ActivePrompt, Group, Groups, ServedModel
from multiflora_platform.observability.metrics import Metrics
from multiflora_platform.structured.compiler import GrammarCompiler
from multiflora_platform.web.openai_errors import unavailable

if TYPE_CHECKING:
    from multiflora_platform.auth.keys import KeyStore
    from multiflora_platform.auth.limits import Limits
    from multiflora_platform.auth.principals import Principal
    from multiflora_platform.auth.usage import UsageLedger
    from multiflora_platform.contexts.service import Contexts
    from multiflora_platform.insight.insight import Insight
    from multiflora_platform.observability.tracing import Tracing
    from multiflora_platform.registry.service import Registry
    from multiflora_platform.registry.shadow_runs import Shadows
    from multiflora_platform.settings import Settings
    from multiflora_platform.webhooks.service import Webhooks

_log = logging.getLogger(__name__)


@dataclass
class Services:
    """The server's parts, made and closed by server/serve.py, and what it is doing at the moment."""

    settings: Settings
    groups: Groups
    registry: Registry
    keys: KeyStore
    metrics: Metrics
    limits: Limits
    usage: UsageLedger
    shadows: Shadows
    webhooks: Webhooks
    insight: Insight
    contexts: Contexts
    setting_sources: Mapping[str, str] = field(default_factory=dict)
    """cli, env or file, by setting; `serve` fills it."""
    tracing: Tracing | None = None
    """None where no endpoint for traces is configured."""
    seeding: bool = False
    """The adapters of the start are still being registered; `serve` ends it."""
    draining: bool = False
    """Set once, by `drain`."""
    active: set[ActivePrompt] = field(default_factory=set)
    """Prompts that are being answered; the gateway adds and removes them."""
    in_flight: int = 0
    """HTTP requests without health checks; the middleware counts them."""
    _idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def model(self) -> ServedModel:
        """The default group's; a request's is in its resolution."""
        return self.groups.default.model

    @property
    def engine(self) -> EngineHandle:
        """The default group's."""
        return self.groups.default.engine

    @property
    def grammars(self) -> GrammarCompiler:
        """The default group's."""
        return self.groups.default.grammars

    @property
    def is_ready(self) -> bool:
        return self.engine.ready is not None and not self.seeding and not self.draining

    @property
    def state(self) -> str:
        """The server's, in one word; "ready" also when the engine says so a moment before its client does."""
        return "draining" if self.draining else "starting" if self.seeding else self.engine.state

    @property
    def max_model_len(self) -> int:
        return self.model.longest(self.engine)

    def answer_headers(self, group: Group, principal: Principal, request_ids: Sequence[str]) -> dict[str, str]:
        """What is known once prompts are computed: why the cache had no more of them, which of the
        group's engines have them. request_ids: the engine's."""
        return self._cache_headers(request_ids) | self._replica_headers(group, principal, request_ids)

    def _cache_headers(self, request_ids: Iterable[str]) -> dict[str, str]:
        reason = self.insight.cache_reason(request_ids) if self.settings.enable_prefix_caching else None
        return {} if reason is None else {"x-cache-reason": reason}

    def _replica_headers(self, group: Group, principal: Principal, request_ids: Iterable[str]) -> dict[str, str]:
        """For admins' keys."""
        if not principal.is_admin:
            return {}
        replicas = {replica: None for id in request_ids if (replica := group.engine.replica_of(id)) is not None}
        return {"x-multiflora-replica": ",".join(replicas)} if replicas else {}

    def request_began(self) -> None:
        self.in_flight += 1
        self._idle.clear()

    def request_ended(self) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    async def drain(self, patience: float) -> None:
        """From now on new requests get 503; returns when the running ones have ended.

        Past patience (seconds) the rest end with an error, a stream with its error frame.
        """
        self.draining = True
        self.registry.stop_feeds()
        self.insight.stop()
        if not await self._wait_idle(patience):
            _log.warning("%d prompts were cut off by the shutdown", len(self.active))
            for answering in list(self.active):
                answering.fail(unavailable("The server shut down before the answer was complete."))
            await self._wait_idle(2.0)

    async def _wait_idle(self, patience: float) -> bool:
        if self.in_flight:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), patience)
        return not self.in_flight
