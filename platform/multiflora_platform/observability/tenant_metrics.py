"""The families of /metrics about tenants, in a registry of their own: a tenant's key must not see others' names."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter

MAX_TENANT_LABELS = 256
ADMIN = "(admin)"
"""No tenant's name has parentheses."""


class TenantMetrics:
    """model: the base model's name."""

    def __init__(self, model: str) -> None:
        self._model = model
        self.registry = CollectorRegistry()
        self._known = {ADMIN}
        self._requests = Counter(
            "multiflora_tenant_requests", "Ended prompts by whose key it was", ["model_name", "tenant", "outcome"],
            registry=self.registry,
        )  # fmt: skip
        self._tokens = Counter(
            "multiflora_tenant_tokens", "Tokens by whose key it was", ["model_name", "tenant", "kind"],
            registry=self.registry,
        )  # fmt: skip

    def ended(self, tenant: str | None, outcome: str, tokens: Mapping[str, int]) -> None:
        """tenant: None for an admin's key. tokens: by kind."""
        label = self._label(tenant or ADMIN)
        self._requests.labels(self._model, label, outcome).inc()
        for kind, count in tokens.items():
            self._tokens.labels(self._model, label, kind).inc(count)

    def _label(self, tenant: str) -> str:
        """As an adapter's: names without end share one."""
        if tenant not in self._known:
            if len(self._known) > MAX_TENANT_LABELS:
                return "other"
            self._known.add(tenant)
        return tenant
