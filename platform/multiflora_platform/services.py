"""Everything that routes reach through `request.app.state.services`, and the server's way of ending: draining.

Holds the parts together; makes none of them (serve.py does).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from multiflora_platform.engine import EngineHandle
from multiflora_platform.groups import Group, Groups, ServedModel
from multiflora_platform.observability.metrics import Metrics
from multiflora_platform.structured.compiler import GrammarCompiler
from multiflora_platform.traffic import Traffic
from multiflora_platform.web.openai_errors import ApiError, unavailable

if TYPE_CHECKING:
    from multiflora_platform.auth.budgets import Budgets
    from multiflora_platform.auth.keys import KeyStore
    from multiflora_platform.auth.limits.limits import Limits
    from multiflora_platform.auth.oidc.sign_on import SingleSignOn
    from multiflora_platform.auth.principals import Principal
    from multiflora_platform.auth.usage import UsageLedger
    from multiflora_platform.contexts.service import Contexts
    from multiflora_platform.fleet.hosts.far_fleet import FarLines
    from multiflora_platform.insight.insight import Insight
    from multiflora_platform.observability.tracing import Tracing
    from multiflora_platform.registry.service import Registry
    from multiflora_platform.registry.shadow_runs import Shadows
    from multiflora_platform.settings import Settings
    from multiflora_platform.webhooks.service import Webhooks

_log = logging.getLogger(__name__)


@dataclass
class Services(Traffic):
    """The server's parts, made and closed by server/serve.py, and what it is doing at the moment.

    Its requests are those of HTTP without health checks; the middleware counts them.
    """

    settings: Settings
    groups: Groups
    registry: Registry
    keys: KeyStore
    metrics: Metrics
    limits: Limits
    usage: UsageLedger
    budgets: Budgets
    shadows: Shadows
    webhooks: Webhooks
    insight: Insight
    contexts: Contexts
    setting_sources: Mapping[str, str] = field(default_factory=dict)
    """cli, env or file, by setting; `serve` fills it."""
    sign_on: SingleSignOn | None = None
    """None where people sign in with keys alone."""
    tracing: Tracing | None = None
    """None where no endpoint for traces is configured."""
    lines: FarLines | None = None
    """To engines that are started elsewhere; None: this server starts its own."""
    seeding: bool = False
    """The adapters of the start are still being registered; `serve` ends it."""
    draining: bool = False
    """Set once, by `drain`."""

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
        return self._cache_headers(group, request_ids) | self._replica_headers(group, principal, request_ids)

    def _cache_headers(self, group: Group, request_ids: Iterable[str]) -> dict[str, str]:
        if not self.settings.enable_prefix_caching:
            return {}
        reason = self.insight.cache_reason(group.engine, request_ids)
        return {} if reason is None else {"x-cache-reason": reason}

    def _replica_headers(self, group: Group, principal: Principal, request_ids: Iterable[str]) -> dict[str, str]:
        """For admins' keys."""
        if not principal.is_admin:
            return {}
        replicas = {replica: None for id in request_ids if (replica := group.engine.replica_of(id)) is not None}
        return {"x-multiflora-replica": ",".join(replicas)} if replicas else {}

    async def drain(self, patience: float) -> None:
        """From now on new requests get 503; returns when the running ones have ended.

        Past patience (seconds) the rest end with an error, a stream with its error frame.
        """
        self.draining = True
        self.registry.stop_feeds()
        self.insight.stop()
        cut_off = await self.run_out(patience, _shut_down)
        if cut_off:
            _log.warning("%d prompts were cut off by the shutdown", cut_off)


def _shut_down() -> ApiError:
    return unavailable("The server shut down before the answer was complete.")
