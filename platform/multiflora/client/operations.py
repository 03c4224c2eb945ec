"""One method for each operation of /api/v1. Written by `make client`; do not edit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from multiflora.client.transport import AsyncTransport, Transport, quoted
from multiflora_platform.auth.account_answers import (
    BudgetPage,
    Key,
    KeyPage,
    LimitsNow,
    NewlyMadeKey,
    RefusalPage,
    Tenant,
    TenantPage,
    UsagePage,
)
from multiflora_platform.auth.account_requests import KeyRotation, NewKey, NewTenant, TenantPatch
from multiflora_platform.base_models.model_schemas import LoadedModel, ModelPage, NewModel
from multiflora_platform.contexts.context_schemas import Context, ContextBody, ContextPage, ContextPatch
from multiflora_platform.evals.checks import EvalCase
from multiflora_platform.evals.schemas import (
    EvalComparison,
    EvalMatrix,
    EvalRun,
    EvalRunBody,
    EvalRunPage,
    EvalRunResults,
    EvalSet,
    EvalSetBody,
    EvalSetPage,
    EvalSetPatch,
)
from multiflora_platform.insight.bodies import AuditQuestion, CacheQuestion, CapacityQuestion, NewProfile, WarmPrompt
from multiflora_platform.insight.views.activity import ActivityAnswer, AlertPage, SeriesAnswer
from multiflora_platform.insight.views.cache import CacheAnswer, CacheEventPage, CacheText, CacheTrace, WarmAnswer
from multiflora_platform.insight.views.misses import CacheExplanation, DriftPage, LossPage, MissPage, ReuseAudit
from multiflora_platform.insight.views.requests import RequestPage, RequestView
from multiflora_platform.insight.views.server import DoctorPage, ProfilePage, SettingPage
from multiflora_platform.insight.views.slots import CapacityAnswer, SlotsAnswer
from multiflora_platform.observability.profiles import Profile
from multiflora_platform.registry.schemas.answers import (
    Adapter,
    AdapterPage,
    Alias,
    AliasHistory,
    AliasPage,
    AuditPage,
    Card,
    CommandDone,
    EventPage,
    Job,
    JobPage,
    ReplicaPage,
    ValidationReport,
    Version,
    VersionPage,
)
from multiflora_platform.registry.schemas.bodies import AdapterPatch, AliasTarget, NewAdapter, VersionSource
from multiflora_platform.registry.schemas.rollouts import (
    NewRollout,
    Rollout,
    RolloutPage,
    RolloutPairPage,
    RolloutPatch,
    RolloutTimeline,
)
from multiflora_platform.registry.schemas.splits import SplitObserved
from multiflora_platform.registry.schemas.version_metadata import VersionPatch
from multiflora_platform.webhooks.webhook_schemas import (
    Delivery,
    DeliveryPage,
    NewWebhook,
    Webhook,
    WebhookPage,
    WebhookPatch,
    WebhookWithSecret,
)


class Client(Transport):
    """/api/v1 as methods; raises ApiProblem and httpx's errors."""

    def create_adapter(self, body: NewAdapter, *, if_none_match: str | None = None) -> Adapter:
        """Make an adapter; a tenant's key makes it the tenant's own."""
        return self.call("POST", "/adapters", Adapter, headers={"if-none-match": if_none_match}, body=body)

    def list_adapters(
        self, *, limit: int = 50, page_token: str | None = None, q: str | None = None, tag: str | None = None
    ) -> AdapterPage:
        """By name. `q`: a part of name or description, the adapter of this name first; `tag`: one of its tags."""
        return self.call(
            "GET", "/adapters", AdapterPage, query={"limit": limit, "page_token": page_token, "q": q, "tag": tag}
        )

    def get_adapter(self, name: str) -> Adapter:
        """Get adapter."""
        return self.call("GET", f"/adapters/{quoted(name)}", Adapter)

    def change_adapter(self, name: str, body: AdapterPatch, *, if_match: str | None = None) -> Adapter:
        """Description, tags, demo_prompt; null clears."""
        return self.call("PATCH", f"/adapters/{quoted(name)}", Adapter, headers={"if-match": if_match}, body=body)

    def delete_adapter(self, name: str, *, if_match: str | None = None) -> None:
        """The name is a 404 at once and free again; running requests finish."""
        self.call("DELETE", f"/adapters/{quoted(name)}", None, headers={"if-match": if_match})

    def load_adapter(self, name: str, *, version: str | None = None, replica: str | None = None) -> CommandDone:
        """Bring it into a slot now, rather than at its first request."""
        return self.call(
            "POST", f"/adapters/{quoted(name)}:load", CommandDone, query={"version": version, "replica": replica}
        )

    def unload_adapter(self, name: str, *, version: str | None = None, replica: str | None = None) -> CommandDone:
        """Take it out of memory; its next request loads it again."""
        return self.call(
            "POST", f"/adapters/{quoted(name)}:unload", CommandDone, query={"version": version, "replica": replica}
        )

    def pin_adapter(self, name: str, *, version: str | None = None, replica: str | None = None) -> CommandDone:
        """Load it and never evict it."""
        return self.call(
            "POST", f"/adapters/{quoted(name)}:pin", CommandDone, query={"version": version, "replica": replica}
        )

    def unpin_adapter(self, name: str, *, version: str | None = None, replica: str | None = None) -> CommandDone:
        """It may be evicted again."""
        return self.call(
            "POST", f"/adapters/{quoted(name)}:unpin", CommandDone, query={"version": version, "replica": replica}
        )

    def add_version(
        self,
        name: str,
        body: VersionSource,
        *,
        promote: bool = False,
        idempotency_key: str | None = None,
        prefer: str | None = None,
    ) -> Version:
        """201 a new version, 200 one that is known already, 422 rejected with its `rows`."""
        return self.call(
            "POST",
            f"/adapters/{quoted(name)}/versions",
            Version,
            query={"promote": promote},
            headers={"idempotency-key": idempotency_key, "prefer": prefer},
            body=body,
        )

    def list_versions(
        self,
        name: str,
        *,
        limit: int = 50,
        page_token: str | None = None,
        q: str | None = None,
        tag: str | None = None,
        state: Literal["pending", "fetching", "validating", "ready", "rejected", "archived"] | None = None,
        dataset: str | None = None,
        training_run: str | None = None,
        parent: str | None = None,
        digest: str | None = None,
        deleted: bool = False,
    ) -> VersionPage:
        """Newest first. `deleted` shows those, too, that can be restored."""
        return self.call(
            "GET",
            f"/adapters/{quoted(name)}/versions",
            VersionPage,
            query={
                "limit": limit,
                "page_token": page_token,
                "q": q,
                "tag": tag,
                "state": state,
                "dataset": dataset,
                "training_run": training_run,
                "parent": parent,
                "digest": digest,
                "deleted": deleted,
            },
        )

    def search_versions(
        self,
        *,
        limit: int = 50,
        page_token: str | None = None,
        q: str | None = None,
        tag: str | None = None,
        state: Literal["pending", "fetching", "validating", "ready", "rejected", "archived"] | None = None,
        dataset: str | None = None,
        training_run: str | None = None,
        parent: str | None = None,
        digest: str | None = None,
        deleted: bool = False,
    ) -> VersionPage:
        """Of all adapters, newest first: which versions were trained on this data, by this run, have this digest?"""
        return self.call(
            "GET",
            "/versions",
            VersionPage,
            query={
                "limit": limit,
                "page_token": page_token,
                "q": q,
                "tag": tag,
                "state": state,
                "dataset": dataset,
                "training_run": training_run,
                "parent": parent,
                "digest": digest,
                "deleted": deleted,
            },
        )

    def get_version(self, name: str, number: str) -> Version:
        """Get version."""
        return self.call("GET", f"/adapters/{quoted(name)}/versions/{quoted(number)}", Version)

    def change_version(self, name: str, number: str, body: VersionPatch, *, if_match: str | None = None) -> Version:
        """Description, tags, lineage; the content of a version never changes."""
        return self.call(
            "PATCH",
            f"/adapters/{quoted(name)}/versions/{quoted(number)}",
            Version,
            headers={"if-match": if_match},
            body=body,
        )

    def delete_version(self, name: str, number: str, *, if_match: str | None = None) -> Version:
        """Archived until it is restored or purged; 409 while an alias points to it. Running requests finish."""
        return self.call(
            "DELETE", f"/adapters/{quoted(name)}/versions/{quoted(number)}", Version, headers={"if-match": if_match}
        )

    def restore_version(self, name: str, number: str, *, if_match: str | None = None) -> Version:
        """Undo its deletion."""
        return self.call(
            "POST",
            f"/adapters/{quoted(name)}/versions/{quoted(number)}:restore",
            Version,
            headers={"if-match": if_match},
        )

    def purge_version(self, name: str, number: str, *, if_match: str | None = None) -> None:
        """Remove a deleted version for good, and its artifact unless another version has the same content."""
        self.call(
            "POST", f"/adapters/{quoted(name)}/versions/{quoted(number)}:purge", None, headers={"if-match": if_match}
        )

    def get_validation(self, name: str, number: str) -> ValidationReport:
        """What the checks said, row by row, and what the evals answered."""
        return self.call("GET", f"/adapters/{quoted(name)}/versions/{quoted(number)}/validation", ValidationReport)

    def get_card(self, name: str, number: str) -> Card:
        """The model card: README.md as markdown, as sanitised HTML, and its front matter."""
        return self.call("GET", f"/adapters/{quoted(name)}/versions/{quoted(number)}/card", Card)

    def list_aliases(self, name: str) -> AliasPage:
        """List aliases."""
        return self.call("GET", f"/adapters/{quoted(name)}/aliases", AliasPage)

    def get_alias(self, name: str, alias: str) -> Alias:
        """With its ETag, which a change must bring as If-Match."""
        return self.call("GET", f"/adapters/{quoted(name)}/aliases/{quoted(alias)}", Alias)

    def put_alias(
        self, name: str, alias: str, body: AliasTarget, *, if_match: str | None = None, if_none_match: str | None = None
    ) -> Alias:
        """201 when it is new; moving one needs If-Match (428 without, 412 when stale)."""
        return self.call(
            "PUT",
            f"/adapters/{quoted(name)}/aliases/{quoted(alias)}",
            Alias,
            headers={"if-match": if_match, "if-none-match": if_none_match},
            body=body,
        )

    def delete_alias(self, name: str, alias: str, *, if_match: str | None = None) -> None:
        """Without `default`, `model=name` is a 404."""
        self.call("DELETE", f"/adapters/{quoted(name)}/aliases/{quoted(alias)}", None, headers={"if-match": if_match})

    def get_split(self, name: str, alias: str) -> SplitObserved:
        """How the versions of a split do, where no rollout watches it: requests, errors, latency of each."""
        return self.call("GET", f"/adapters/{quoted(name)}/aliases/{quoted(alias)}/split", SplitObserved)

    def roll_back_alias(self, name: str, alias: str, *, if_match: str | None = None) -> Alias:
        """To `rollback_to`, the last settled target; a second time changes nothing. If-Match is not required."""
        return self.call(
            "POST", f"/adapters/{quoted(name)}/aliases/{quoted(alias)}:rollback", Alias, headers={"if-match": if_match}
        )

    def get_alias_history(
        self, name: str, alias: str, *, limit: int = 100, page_token: str | None = None
    ) -> AliasHistory:
        """Where it pointed, newest first, also after it was deleted."""
        return self.call(
            "GET",
            f"/adapters/{quoted(name)}/aliases/{quoted(alias)}/history",
            AliasHistory,
            query={"limit": limit, "page_token": page_token},
        )

    def protect_alias(self, name: str, alias: str, *, if_match: str | None = None) -> Alias:
        """Only admins move or delete it from now on, or delete its adapter."""
        return self.call(
            "POST", f"/adapters/{quoted(name)}/aliases/{quoted(alias)}:protect", Alias, headers={"if-match": if_match}
        )

    def unprotect_alias(self, name: str, alias: str, *, if_match: str | None = None) -> Alias:
        """Its owner may move it again."""
        return self.call(
            "POST", f"/adapters/{quoted(name)}/aliases/{quoted(alias)}:unprotect", Alias, headers={"if-match": if_match}
        )

    def start_rollout(self, name: str, alias: str, body: NewRollout, *, if_match: str | None = None) -> Rollout:
        """Send a part of the alias's users, or copies of their requests, to a candidate; needs the alias's If-Match."""
        return self.call(
            "POST",
            f"/adapters/{quoted(name)}/aliases/{quoted(alias)}/rollout",
            Rollout,
            headers={"if-match": if_match},
            body=body,
        )

    def get_rollout(self, name: str, alias: str) -> Rollout:
        """The running one with what was observed until now, or the last that ran."""
        return self.call("GET", f"/adapters/{quoted(name)}/aliases/{quoted(alias)}/rollout", Rollout)

    def change_rollout(self, name: str, alias: str, body: RolloutPatch, *, if_match: str | None = None) -> Rollout:
        """Other shares or bounds; who is in the candidate's share stays in it when it grows."""
        return self.call(
            "PATCH",
            f"/adapters/{quoted(name)}/aliases/{quoted(alias)}/rollout",
            Rollout,
            headers={"if-match": if_match},
            body=body,
        )

    def list_rollouts(self, name: str, alias: str, *, limit: int = 50, page_token: str | None = None) -> RolloutPage:
        """Newest first."""
        return self.call(
            "GET",
            f"/adapters/{quoted(name)}/aliases/{quoted(alias)}/rollouts",
            RolloutPage,
            query={"limit": limit, "page_token": page_token},
        )

    def get_rollout_timeline(self, name: str, alias: str, rollout: str) -> RolloutTimeline:
        """Errors and latency of both versions since its start, as they were judged, with the bounds."""
        return self.call(
            "GET",
            f"/adapters/{quoted(name)}/aliases/{quoted(alias)}/rollouts/{quoted(rollout)}/timeline",
            RolloutTimeline,
        )

    def list_rollout_pairs(
        self, name: str, alias: str, rollout: str, *, limit: int = 20, page_token: str | None = None
    ) -> RolloutPairPage:
        """Prompts that both versions answered, and not alike; newest first. A tenant sees those of its own requests."""
        return self.call(
            "GET",
            f"/adapters/{quoted(name)}/aliases/{quoted(alias)}/rollouts/{quoted(rollout)}/pairs",
            RolloutPairPage,
            query={"limit": limit, "page_token": page_token},
        )

    def list_all_rollouts(
        self,
        *,
        state: Literal["running", "promoted", "rolled_back", "aborted", "superseded"] | None = None,
        limit: int = 50,
        page_token: str | None = None,
    ) -> RolloutPage:
        """Of all adapters, newest first. state: only those that are in it."""
        return self.call(
            "GET", "/rollouts", RolloutPage, query={"state": state, "limit": limit, "page_token": page_token}
        )

    def promote_rollout(self, name: str, alias: str, *, if_match: str | None = None) -> Rollout:
        """The candidate for every user."""
        return self.call(
            "POST",
            f"/adapters/{quoted(name)}/aliases/{quoted(alias)}/rollout:promote",
            Rollout,
            headers={"if-match": if_match},
        )

    def abort_rollout(self, name: str, alias: str, *, if_match: str | None = None) -> Rollout:
        """The stable version for every user."""
        return self.call(
            "POST",
            f"/adapters/{quoted(name)}/aliases/{quoted(alias)}/rollout:abort",
            Rollout,
            headers={"if-match": if_match},
        )

    def list_jobs(
        self,
        *,
        limit: int = 50,
        page_token: str | None = None,
        state: Literal["queued", "running", "succeeded", "failed", "cancelled"] | None = None,
        adapter: str | None = None,
    ) -> JobPage:
        """Newest first."""
        return self.call(
            "GET",
            "/jobs",
            JobPage,
            query={"limit": limit, "page_token": page_token, "state": state, "adapter": adapter},
        )

    def get_job(self, job_id: str) -> Job:
        """The job; its progress as it goes on when Accept asks for text/event-stream."""
        return self.call("GET", f"/jobs/{quoted(job_id)}", Job)

    def cancel_job(self, job_id: str) -> Job:
        """Its version is rejected; 409 when the job has ended."""
        return self.call("POST", f"/jobs/{quoted(job_id)}:cancel", Job)

    def list_replicas(self, *, on_disk: bool = True) -> ReplicaPage:
        """Each engine: pid, state, which adapters it has where; on_disk=false: without those on disk alone."""
        return self.call("GET", "/replicas", ReplicaPage, query={"on_disk": on_disk})

    def list_events(
        self,
        *,
        cursor: int = 0,
        limit: int = 100,
        newest: bool = False,
        type: Sequence[str] | None = None,
        last_event_id: str | None = None,
    ) -> EventPage:
        """What happened after `cursor`, oldest first; a live feed when Accept asks for text/event-stream."""
        return self.call(
            "GET",
            "/events",
            EventPage,
            query={"cursor": cursor, "limit": limit, "newest": newest, "type": type},
            headers={"last-event-id": last_event_id},
        )

    def list_audit(self, *, limit: int = 100, page_token: str | None = None, adapter: str | None = None) -> AuditPage:
        """Who did what, newest first. adapter: only what was done to it, its versions and its aliases."""
        return self.call(
            "GET", "/audit", AuditPage, query={"limit": limit, "page_token": page_token, "adapter": adapter}
        )

    def create_tenant(self, body: NewTenant, *, if_none_match: str | None = None) -> Tenant:
        """A tenant owns keys; its limits and its share of the cache are those of all of them together."""
        return self.call("POST", "/tenants", Tenant, headers={"if-none-match": if_none_match}, body=body)

    def list_tenants(self) -> TenantPage:
        """By name, all of them."""
        return self.call("GET", "/tenants", TenantPage)

    def get_tenant(self, tenant: str) -> Tenant:
        """Get tenant."""
        return self.call("GET", f"/tenants/{quoted(tenant)}", Tenant)

    def change_tenant(self, tenant: str, body: TenantPatch, *, if_match: str | None = None) -> Tenant:
        """Holds from the next request on; null lifts a limit."""
        return self.call("PATCH", f"/tenants/{quoted(tenant)}", Tenant, headers={"if-match": if_match}, body=body)

    def get_tenant_limits(self, tenant: str, *, window: Literal["day", "week", "month"] = "day") -> LimitsNow:
        """What is left of its limits now; peaks and refusals of the last 1, 7 or 30 days. A tenant sees its own."""
        return self.call("GET", f"/tenants/{quoted(tenant)}/limits", LimitsNow, query={"window": window})

    def create_key(self, body: NewKey) -> NewlyMadeKey:
        """The answer's `key` is shown this once."""
        return self.call("POST", "/keys", NewlyMadeKey, body=body)

    def list_keys(self, *, tenant: str | None = None) -> KeyPage:
        """Oldest first; `tenant`: only this one's."""
        return self.call("GET", "/keys", KeyPage, query={"tenant": tenant})

    def get_key(self, key_id: str) -> Key:
        """Get key."""
        return self.call("GET", f"/keys/{quoted(key_id)}", Key)

    def revoke_key(self, key_id: str, *, if_match: str | None = None) -> None:
        """Refused from the next request on; it stays in the list, with `revoked_at`."""
        self.call("DELETE", f"/keys/{quoted(key_id)}", None, headers={"if-match": if_match})

    def rotate_key(self, key_id: str, body: KeyRotation, *, if_match: str | None = None) -> NewlyMadeKey:
        """A new key like the old one, which goes on working for `overlap_seconds`."""
        return self.call(
            "POST", f"/keys/{quoted(key_id)}:rotate", NewlyMadeKey, headers={"if-match": if_match}, body=body
        )

    def get_usage(
        self,
        *,
        tenant: str | None = None,
        adapter: str | None = None,
        key: str | None = None,
        since: str | None = None,
        until: str | None = None,
        group_by: Sequence[Literal["day", "tenant", "adapter", "key"]] = ("day", "tenant", "adapter"),
        limit: int = 100,
        page_token: str | None = None,
    ) -> UsagePage:
        """Sums by day (UTC), tenant and adapter, by fewer, or by key (its id). `since`, `until`: days, both counted."""
        return self.call(
            "GET",
            "/usage",
            UsagePage,
            query={
                "tenant": tenant,
                "adapter": adapter,
                "key": key,
                "since": since,
                "until": until,
                "group_by": group_by,
                "limit": limit,
                "page_token": page_token,
            },
        )

    def get_budgets(self, *, tenant: str | None = None) -> BudgetPage:
        """What is used of each budget in the present day or month (UTC), by tenant."""
        return self.call("GET", "/budgets", BudgetPage, query={"tenant": tenant})

    def get_refusals(
        self, *, tenant: str | None = None, window: Literal["day", "week", "month"] = "day"
    ) -> RefusalPage:
        """Requests that were refused, by tenant and cause: today, in the last 7 or the last 30 days (UTC)."""
        return self.call("GET", "/refusals", RefusalPage, query={"tenant": tenant, "window": window})

    def list_webhooks(self) -> WebhookPage:
        """Oldest first."""
        return self.call("GET", "/webhooks", WebhookPage)

    def create_webhook(self, body: NewWebhook) -> WebhookWithSecret:
        """Events from now on are POSTed to the URL, signed as Standard Webhooks has it; `secret` is shown this once."""
        return self.call("POST", "/webhooks", WebhookWithSecret, body=body)

    def get_webhook(self, webhook_id: str) -> Webhook:
        """Get webhook."""
        return self.call("GET", f"/webhooks/{quoted(webhook_id)}", Webhook)

    def change_webhook(self, webhook_id: str, body: WebhookPatch, *, if_match: str | None = None) -> Webhook:
        """Change webhook."""
        return self.call("PATCH", f"/webhooks/{quoted(webhook_id)}", Webhook, headers={"if-match": if_match}, body=body)

    def delete_webhook(self, webhook_id: str, *, if_match: str | None = None) -> None:
        """With its deliveries, those on their way included."""
        self.call("DELETE", f"/webhooks/{quoted(webhook_id)}", None, headers={"if-match": if_match})

    def rotate_webhook(self, webhook_id: str, *, if_match: str | None = None) -> WebhookWithSecret:
        """A new secret signs from now on."""
        return self.call(
            "POST", f"/webhooks/{quoted(webhook_id)}:rotate", WebhookWithSecret, headers={"if-match": if_match}
        )

    def test_webhook(self, webhook_id: str) -> Delivery:
        """Sends a `webhook.test` message now, once, and tells what came back."""
        return self.call("POST", f"/webhooks/{quoted(webhook_id)}:test", Delivery)

    def list_deliveries(self, webhook_id: str, *, limit: int = 50, page_token: str | None = None) -> DeliveryPage:
        """Newest first; kept for a week."""
        return self.call(
            "GET",
            f"/webhooks/{quoted(webhook_id)}/deliveries",
            DeliveryPage,
            query={"limit": limit, "page_token": page_token},
        )

    def redeliver(self, webhook_id: str, delivery: int) -> Delivery:
        """The same message once more, with all its retries."""
        return self.call("POST", f"/webhooks/{quoted(webhook_id)}/deliveries/{quoted(delivery)}:redeliver", Delivery)

    def list_base_models(self) -> ModelPage:
        """The one that the server was started with first."""
        return self.call("GET", "/models", ModelPage)

    def load_model(self, body: NewModel) -> LoadedModel:
        """Serves one more base model; its `job` tells how far that is, here and when it is listed."""
        return self.call("POST", "/models", LoadedModel, body=body)

    def get_base_model(self, name: str) -> LoadedModel:
        """Get base model."""
        return self.call("GET", f"/models/{quoted(name)}", LoadedModel)

    def unload_model(self, name: str) -> None:
        """Its requests end within --drain-timeout, then its engines; adapters stay registered."""
        self.call("DELETE", f"/models/{quoted(name)}", None)

    def get_series(self, *, window: int = 900) -> SeriesAnswer:
        """The last `window` seconds: second by second up to 15 minutes, beyond that minute by minute."""
        return self.call("GET", "/series", SeriesAnswer, query={"window": window})

    def list_alerts(self) -> AlertPage:
        """What to look at now, the worst first."""
        return self.call("GET", "/alerts", AlertPage)

    def get_slots(self, *, replica: str | None = None, model: str | None = None) -> SlotsAnswer:
        """Which adapters are on the device of each engine, and the last loads and evictions."""
        return self.call("GET", "/slots", SlotsAnswer, query={"replica": replica, "model": model})

    def ask_capacity(self, body: CapacityQuestion, *, model: str | None = None) -> CapacityAnswer:
        """Whether adapters of these ranks and so much context fit at the same time."""
        return self.call("POST", "/capacity", CapacityAnswer, query={"model": model}, body=body)

    def list_settings(self) -> SettingPage:
        """Every setting, and where its value came from; no secrets. What the engine chooses is as it chose."""
        return self.call("GET", "/settings", SettingPage)

    def get_doctor(self) -> DoctorPage:
        """What `multiflora doctor` says of the server's machine, of the disk with its data and of each base model."""
        return self.call("GET", "/doctor", DoctorPage)

    def list_requests(
        self,
        *,
        limit: int = 100,
        page_token: str | None = None,
        model: str | None = None,
        status: int | None = None,
        tenant: str | None = None,
        id: str | None = None,
        since: str | None = None,
    ) -> RequestPage:
        """The last 50,000 prompts and refusals, newest first, without texts. since: what changed; id: that one."""
        return self.call(
            "GET",
            "/requests",
            RequestPage,
            query={
                "limit": limit,
                "page_token": page_token,
                "model": model,
                "status": status,
                "tenant": tenant,
                "id": id,
                "since": since,
            },
        )

    def get_request(self, id: str) -> RequestView:
        """One prompt, by its id, its answer's or its X-Request-ID, with its stages; for admins its texts where kept."""
        return self.call("GET", f"/requests/{quoted(id)}", RequestView)

    def explain_request(self, id: str) -> CacheExplanation:
        """What the prefix cache had of one prompt, where it parts from the closest before it, why, what to do."""
        return self.call("GET", f"/requests/{quoted(id)}/cache", CacheExplanation)

    def get_activity(self) -> ActivityAnswer:
        """Requests of the last 7 days (UTC), and how fast the last answers came, by adapter; those that were used."""
        return self.call("GET", "/activity", ActivityAnswer)

    def get_cache(self, *, replica: str | None = None, model: str | None = None) -> CacheAnswer:
        """Everything that is cached, as a tree of runs of blocks; the 500 longest of each engine."""
        return self.call("GET", "/cache", CacheAnswer, query={"replica": replica, "model": model})

    def list_misses(self, *, model: str | None = None) -> MissPage:
        """The last prompts of which the cache had less than it could have, and why; newest first."""
        return self.call("GET", "/cache/misses", MissPage, query={"model": model})

    def list_losses(self, *, model: str | None = None) -> LossPage:
        """Tokens that the last 100 misses lost, by cause, with what to do about each."""
        return self.call("GET", "/cache/losses", LossPage, query={"model": model})

    def warm_cache(self, body: WarmPrompt, *, replica: str | None = None) -> WarmAnswer:
        """Computes a prompt or the beginning of a conversation now, so that a tenant's or admins' requests find it."""
        return self.call("POST", "/cache:warm", WarmAnswer, query={"replica": replica}, body=body)

    def audit_reuse(self, body: AuditQuestion) -> ReuseAudit:
        """Answers a sample of the last prompts with reused documents twice, exactly and not: how near that is."""
        return self.call("POST", "/cache:audit", ReuseAudit, body=body)

    def take_cache_trace(self, *, model: str | None = None) -> CacheTrace:
        """Hashes of the blocks of requests that ended since this was asked last; it records for a minute more."""
        return self.call("POST", "/cache:trace", CacheTrace, query={"model": model})

    def get_cached_text(
        self, hash: str, *, limit: int | None = None, replica: str | None = None, model: str | None = None
    ) -> CacheText:
        """The tokens of one run, and what they say."""
        return self.call(
            "GET", f"/cache/{quoted(hash)}/text", CacheText, query={"limit": limit, "replica": replica, "model": model}
        )

    def pin_cached(self, hash: str, *, replica: str | None = None, model: str | None = None) -> None:
        """The run and all before it stay cached until they are unpinned or the engine restarts."""
        self.call("POST", f"/cache/{quoted(hash)}:pin", None, query={"replica": replica, "model": model})

    def unpin_cached(self, hash: str, *, replica: str | None = None, model: str | None = None) -> None:
        """It may be evicted again."""
        self.call("POST", f"/cache/{quoted(hash)}:unpin", None, query={"replica": replica, "model": model})

    def drop_cached(self, hash: str, *, replica: str | None = None, model: str | None = None) -> None:
        """The run and everything that continues it are found no more; requests that use them go on."""
        self.call("POST", f"/cache/{quoted(hash)}:drop", None, query={"replica": replica, "model": model})

    def list_cache_events(
        self,
        *,
        cursor: int | None = None,
        limit: int = 1000,
        snapshot: bool = False,
        replica: str | None = None,
        model: str | None = None,
        last_event_id: str | None = None,
    ) -> CacheEventPage:
        """What was cached and given up after `cursor`; a live feed when Accept asks for text/event-stream."""
        return self.call(
            "GET",
            "/cache/events",
            CacheEventPage,
            query={"cursor": cursor, "limit": limit, "snapshot": snapshot, "replica": replica, "model": model},
            headers={"last-event-id": last_event_id},
        )

    def explain_cache(self, body: CacheQuestion) -> CacheExplanation:
        """What the prefix cache has of a prompt, where it parts from an earlier one, and why. Nothing is generated."""
        return self.call("POST", "/cache:explain", CacheExplanation, body=body)

    def list_drift(self) -> DriftPage:
        """Where the last hour's prompts part over and over, by what, its cost, and the fix; admins see all tenants'."""
        return self.call("GET", "/cache/drift", DriftPage)

    def list_contexts(
        self, *, tenant: str | None = None, limit: int = 100, page_token: str | None = None
    ) -> ContextPage:
        """By tenant and name; admins see all, or a tenant's."""
        return self.call(
            "GET", "/contexts", ContextPage, query={"tenant": tenant, "limit": limit, "page_token": page_token}
        )

    def put_context(
        self,
        name: str,
        body: ContextBody,
        *,
        tenant: str | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> Context:
        """Makes or replaces it; it is computed afterwards and held, within the tenant's budget (409 when full)."""
        return self.call(
            "PUT",
            f"/contexts/{quoted(name)}",
            Context,
            query={"tenant": tenant},
            headers={"if-match": if_match, "if-none-match": if_none_match},
            body=body,
        )

    def get_context(self, name: str, *, tenant: str | None = None) -> Context:
        """What the engine has of it now."""
        return self.call("GET", f"/contexts/{quoted(name)}", Context, query={"tenant": tenant})

    def change_context(
        self, name: str, body: ContextPatch, *, tenant: str | None = None, if_match: str | None = None
    ) -> Context:
        """Of the fields that are sent; what is not yet computed of it is computed."""
        return self.call(
            "PATCH",
            f"/contexts/{quoted(name)}",
            Context,
            query={"tenant": tenant},
            headers={"if-match": if_match},
            body=body,
        )

    def delete_context(self, name: str, *, tenant: str | None = None, if_match: str | None = None) -> None:
        """Its blocks are held no more; requests that name it are a 404."""
        self.call("DELETE", f"/contexts/{quoted(name)}", None, query={"tenant": tenant}, headers={"if-match": if_match})

    def list_evals(self, name: str, *, limit: int = 100, page_token: str | None = None) -> EvalSetPage:
        """By name."""
        return self.call(
            "GET", f"/adapters/{quoted(name)}/evals", EvalSetPage, query={"limit": limit, "page_token": page_token}
        )

    def put_eval(
        self,
        name: str,
        eval_name: str,
        body: EvalSetBody,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> EvalSet:
        """Makes or replaces it; other cases than before are another version of the set."""
        return self.call(
            "PUT",
            f"/adapters/{quoted(name)}/evals/{quoted(eval_name)}",
            EvalSet,
            headers={"if-match": if_match, "if-none-match": if_none_match},
            body=body,
        )

    def get_eval(self, name: str, eval_name: str, *, version: int | None = None) -> EvalSet:
        """With its prompts; version: none: the newest."""
        return self.call(
            "GET", f"/adapters/{quoted(name)}/evals/{quoted(eval_name)}", EvalSet, query={"version": version}
        )

    def change_eval(self, name: str, eval_name: str, body: EvalSetPatch, *, if_match: str | None = None) -> EvalSet:
        """Its description, and what it gates."""
        return self.call(
            "PATCH",
            f"/adapters/{quoted(name)}/evals/{quoted(eval_name)}",
            EvalSet,
            headers={"if-match": if_match},
            body=body,
        )

    def delete_eval(self, name: str, eval_name: str, *, if_match: str | None = None) -> None:
        """With its versions and all runs."""
        self.call("DELETE", f"/adapters/{quoted(name)}/evals/{quoted(eval_name)}", None, headers={"if-match": if_match})

    def add_eval_case(self, name: str, eval_name: str, body: EvalCase) -> EvalSet:
        """One more prompt at the end of a set, which is made where there is none: another version of it."""
        return self.call("POST", f"/adapters/{quoted(name)}/evals/{quoted(eval_name)}/cases", EvalSet, body=body)

    def run_eval(self, name: str, eval_name: str, body: EvalRunBody) -> EvalRun:
        """Queued: it is asked in the background, behind every request that a client waits for."""
        return self.call("POST", f"/adapters/{quoted(name)}/evals/{quoted(eval_name)}/runs", EvalRun, body=body)

    def get_eval_matrix(self, name: str, eval_name: str, *, version: int | None = None) -> EvalMatrix:
        """Versions by prompts: the newest completed run of each version, mix or other model."""
        return self.call(
            "GET", f"/adapters/{quoted(name)}/evals/{quoted(eval_name)}/matrix", EvalMatrix, query={"version": version}
        )

    def list_eval_runs(
        self,
        name: str,
        *,
        eval: str | None = None,
        version: int | None = None,
        state: Literal["queued", "running", "completed", "cancelled", "failed"] | None = None,
        limit: int = 100,
        page_token: str | None = None,
    ) -> EvalRunPage:
        """Newest first: scores over time. eval: a set's name. version: of the adapter."""
        return self.call(
            "GET",
            f"/adapters/{quoted(name)}/eval-runs",
            EvalRunPage,
            query={"eval": eval, "version": version, "state": state, "limit": limit, "page_token": page_token},
        )

    def compare_eval_runs(self, name: str, *, left: int, right: int) -> EvalComparison:
        """Two runs, prompt by prompt: what the right one does better and worse."""
        return self.call(
            "GET", f"/adapters/{quoted(name)}/eval-runs:compare", EvalComparison, query={"left": left, "right": right}
        )

    def get_eval_run(self, name: str, run: str, *, results: bool = True) -> EvalRunResults:
        """With what was answered so far, and what each check found. results: false: without, to see how far it is."""
        return self.call(
            "GET", f"/adapters/{quoted(name)}/eval-runs/{quoted(run)}", EvalRunResults, query={"results": results}
        )

    def cancel_eval_run(self, name: str, run: str) -> EvalRun:
        """What has been answered stays; the rest is not asked."""
        return self.call("POST", f"/adapters/{quoted(name)}/eval-runs/{quoted(run)}:cancel", EvalRun)

    def list_profiles(self) -> ProfilePage:
        """The last ones, the newest first."""
        return self.call("GET", "/profile", ProfilePage)

    def start_profile(self, body: NewProfile) -> Profile:
        """Begins to record; requests go on meanwhile. One at a time: 409 `profile-running` while another one is."""
        return self.call("POST", "/profile", Profile, body=body)

    def get_profile(self, id: str) -> Profile:
        """One profile: whether it is done."""
        return self.call("GET", f"/profile/{quoted(id)}", Profile)


class AsyncClient(AsyncTransport):
    """/api/v1 as methods; raises ApiProblem and httpx's errors."""

    async def create_adapter(self, body: NewAdapter, *, if_none_match: str | None = None) -> Adapter:
        """Make an adapter; a tenant's key makes it the tenant's own."""
        return await self.call("POST", "/adapters", Adapter, headers={"if-none-match": if_none_match}, body=body)

    async def list_adapters(
        self, *, limit: int = 50, page_token: str | None = None, q: str | None = None, tag: str | None = None
    ) -> AdapterPage:
        """By name. `q`: a part of name or description, the adapter of this name first; `tag`: one of its tags."""
        return await self.call(
            "GET", "/adapters", AdapterPage, query={"limit": limit, "page_token": page_token, "q": q, "tag": tag}
        )

    async def get_adapter(self, name: str) -> Adapter:
        """Get adapter."""
        return await self.call("GET", f"/adapters/{quoted(name)}", Adapter)

    async def change_adapter(self, name: str, body: AdapterPatch, *, if_match: str | None = None) -> Adapter:
        """Description, tags, demo_prompt; null clears."""
        return await self.call("PATCH", f"/adapters/{quoted(name)}", Adapter, headers={"if-match": if_match}, body=body)

    async def delete_adapter(self, name: str, *, if_match: str | None = None) -> None:
        """The name is a 404 at once and free again; running requests finish."""
        await self.call("DELETE", f"/adapters/{quoted(name)}", None, headers={"if-match": if_match})

    async def load_adapter(self, name: str, *, version: str | None = None, replica: str | None = None) -> CommandDone:
        """Bring it into a slot now, rather than at its first request."""
        return await self.call(
            "POST", f"/adapters/{quoted(name)}:load", CommandDone, query={"version": version, "replica": replica}
        )

    async def unload_adapter(self, name: str, *, version: str | None = None, replica: str | None = None) -> CommandDone:
        """Take it out of memory; its next request loads it again."""
        return await self.call(
            "POST", f"/adapters/{quoted(name)}:unload", CommandDone, query={"version": version, "replica": replica}
        )

    async def pin_adapter(self, name: str, *, version: str | None = None, replica: str | None = None) -> CommandDone:
        """Load it and never evict it."""
        return await self.call(
            "POST", f"/adapters/{quoted(name)}:pin", CommandDone, query={"version": version, "replica": replica}
        )

    async def unpin_adapter(self, name: str, *, version: str | None = None, replica: str | None = None) -> CommandDone:
        """It may be evicted again."""
        return await self.call(
            "POST", f"/adapters/{quoted(name)}:unpin", CommandDone, query={"version": version, "replica": replica}
        )

    async def add_version(
        self,
        name: str,
        body: VersionSource,
        *,
        promote: bool = False,
        idempotency_key: str | None = None,
        prefer: str | None = None,
    ) -> Version:
        """201 a new version, 200 one that is known already, 422 rejected with its `rows`."""
        return await self.call(
            "POST",
            f"/adapters/{quoted(name)}/versions",
            Version,
            query={"promote": promote},
            headers={"idempotency-key": idempotency_key, "prefer": prefer},
            body=body,
        )

    async def list_versions(
        self,
        name: str,
        *,
        limit: int = 50,
        page_token: str | None = None,
        q: str | None = None,
        tag: str | None = None,
        state: Literal["pending", "fetching", "validating", "ready", "rejected", "archived"] | None = None,
        dataset: str | None = None,
        training_run: str | None = None,
        parent: str | None = None,
        digest: str | None = None,
        deleted: bool = False,
    ) -> VersionPage:
        """Newest first. `deleted` shows those, too, that can be restored."""
        return await self.call(
            "GET",
            f"/adapters/{quoted(name)}/versions",
            VersionPage,
            query={
                "limit": limit,
                "page_token": page_token,
                "q": q,
                "tag": tag,
                "state": state,
                "dataset": dataset,
                "training_run": training_run,
                "parent": parent,
                "digest": digest,
                "deleted": deleted,
            },
        )

    async def search_versions(
        self,
        *,
        limit: int = 50,
        page_token: str | None = None,
        q: str | None = None,
        tag: str | None = None,
        state: Literal["pending", "fetching", "validating", "ready", "rejected", "archived"] | None = None,
        dataset: str | None = None,
        training_run: str | None = None,
        parent: str | None = None,
        digest: str | None = None,
        deleted: bool = False,
    ) -> VersionPage:
        """Of all adapters, newest first: which versions were trained on this data, by this run, have this digest?"""
        return await self.call(
            "GET",
            "/versions",
            VersionPage,
            query={
                "limit": limit,
                "page_token": page_token,
                "q": q,
                "tag": tag,
                "state": state,
                "dataset": dataset,
                "training_run": training_run,
                "parent": parent,
                "digest": digest,
                "deleted": deleted,
            },
        )

    async def get_version(self, name: str, number: str) -> Version:
        """Get version."""
        return await self.call("GET", f"/adapters/{quoted(name)}/versions/{quoted(number)}", Version)

    async def change_version(
        self, name: str, number: str, body: VersionPatch, *, if_match: str | None = None
    ) -> Version:
        """Description, tags, lineage; the content of a version never changes."""
        return await self.call(
            "PATCH",
            f"/adapters/{quoted(name)}/versions/{quoted(number)}",
            Version,
            headers={"if-match": if_match},
            body=body,
        )

    async def delete_version(self, name: str, number: str, *, if_match: str | None = None) -> Version:
        """Archived until it is restored or purged; 409 while an alias points to it. Running requests finish."""
        return await self.call(
            "DELETE", f"/adapters/{quoted(name)}/versions/{quoted(number)}", Version, headers={"if-match": if_match}
        )

    async def restore_version(self, name: str, number: str, *, if_match: str | None = None) -> Version:
        """Undo its deletion."""
        return await self.call(
            "POST",
            f"/adapters/{quoted(name)}/versions/{quoted(number)}:restore",
            Version,
            headers={"if-match": if_match},
        )

    async def purge_version(self, name: str, number: str, *, if_match: str | None = None) -> None:
        """Remove a deleted version for good, and its artifact unless another version has the same content."""
        await self.call(
            "POST", f"/adapters/{quoted(name)}/versions/{quoted(number)}:purge", None, headers={"if-match": if_match}
        )

    async def get_validation(self, name: str, number: str) -> ValidationReport:
        """What the checks said, row by row, and what the evals answered."""
        return await self.call(
            "GET", f"/adapters/{quoted(name)}/versions/{quoted(number)}/validation", ValidationReport
        )

    async def get_card(self, name: str, number: str) -> Card:
        """The model card: README.md as markdown, as sanitised HTML, and its front matter."""
        return await self.call("GET", f"/adapters/{quoted(name)}/versions/{quoted(number)}/card", Card)

    async def list_aliases(self, name: str) -> AliasPage:
        """List aliases."""
        return await self.call("GET", f"/adapters/{quoted(name)}/aliases", AliasPage)

    async def get_alias(self, name: str, alias: str) -> Alias:
        """With its ETag, which a change must bring as If-Match."""
        return await self.call("GET", f"/adapters/{quoted(name)}/aliases/{quoted(alias)}", Alias)

    async def put_alias(
        self, name: str, alias: str, body: AliasTarget, *, if_match: str | None = None, if_none_match: str | None = None
    ) -> Alias:
        """201 when it is new; moving one needs If-Match (428 without, 412 when stale)."""
        return await self.call(
            "PUT",
            f"/adapters/{quoted(name)}/aliases/{quoted(alias)}",
            Alias,
            headers={"if-match": if_match, "if-none-match": if_none_match},
            body=body,
        )

    async def delete_alias(self, name: str, alias: str, *, if_match: str | None = None) -> None:
        """Without `default`, `model=name` is a 404."""
        await self.call(
            "DELETE", f"/adapters/{quoted(name)}/aliases/{quoted(alias)}", None, headers={"if-match": if_match}
        )

    async def get_split(self, name: str, alias: str) -> SplitObserved:
        """How the versions of a split do, where no rollout watches it: requests, errors, latency of each."""
        return await self.call("GET", f"/adapters/{quoted(name)}/aliases/{quoted(alias)}/split", SplitObserved)

    async def roll_back_alias(self, name: str, alias: str, *, if_match: str | None = None) -> Alias:
        """To `rollback_to`, the last settled target; a second time changes nothing. If-Match is not required."""
        return await self.call(
            "POST", f"/adapters/{quoted(name)}/aliases/{quoted(alias)}:rollback", Alias, headers={"if-match": if_match}
        )

    async def get_alias_history(
        self, name: str, alias: str, *, limit: int = 100, page_token: str | None = None
    ) -> AliasHistory:
        """Where it pointed, newest first, also after it was deleted."""
        return await self.call(
            "GET",
            f"/adapters/{quoted(name)}/aliases/{quoted(alias)}/history",
            AliasHistory,
            query={"limit": limit, "page_token": page_token},
        )

    async def protect_alias(self, name: str, alias: str, *, if_match: str | None = None) -> Alias:
        """Only admins move or delete it from now on, or delete its adapter."""
        return await self.call(
            "POST", f"/adapters/{quoted(name)}/aliases/{quoted(alias)}:protect", Alias, headers={"if-match": if_match}
        )

    async def unprotect_alias(self, name: str, alias: str, *, if_match: str | None = None) -> Alias:
        """Its owner may move it again."""
        return await self.call(
            "POST", f"/adapters/{quoted(name)}/aliases/{quoted(alias)}:unprotect", Alias, headers={"if-match": if_match}
        )

    async def start_rollout(self, name: str, alias: str, body: NewRollout, *, if_match: str | None = None) -> Rollout:
        """Send a part of the alias's users, or copies of their requests, to a candidate; needs the alias's If-Match."""
        return await self.call(
            "POST",
            f"/adapters/{quoted(name)}/aliases/{quoted(alias)}/rollout",
            Rollout,
            headers={"if-match": if_match},
            body=body,
        )

    async def get_rollout(self, name: str, alias: str) -> Rollout:
        """The running one with what was observed until now, or the last that ran."""
        return await self.call("GET", f"/adapters/{quoted(name)}/aliases/{quoted(alias)}/rollout", Rollout)

    async def change_rollout(
        self, name: str, alias: str, body: RolloutPatch, *, if_match: str | None = None
    ) -> Rollout:
        """Other shares or bounds; who is in the candidate's share stays in it when it grows."""
        return await self.call(
            "PATCH",
            f"/adapters/{quoted(name)}/aliases/{quoted(alias)}/rollout",
            Rollout,
            headers={"if-match": if_match},
            body=body,
        )

    async def list_rollouts(
        self, name: str, alias: str, *, limit: int = 50, page_token: str | None = None
    ) -> RolloutPage:
        """Newest first."""
        return await self.call(
            "GET",
            f"/adapters/{quoted(name)}/aliases/{quoted(alias)}/rollouts",
            RolloutPage,
            query={"limit": limit, "page_token": page_token},
        )

    async def get_rollout_timeline(self, name: str, alias: str, rollout: str) -> RolloutTimeline:
        """Errors and latency of both versions since its start, as they were judged, with the bounds."""
        return await self.call(
            "GET",
            f"/adapters/{quoted(name)}/aliases/{quoted(alias)}/rollouts/{quoted(rollout)}/timeline",
            RolloutTimeline,
        )

    async def list_rollout_pairs(
        self, name: str, alias: str, rollout: str, *, limit: int = 20, page_token: str | None = None
    ) -> RolloutPairPage:
        """Prompts that both versions answered, and not alike; newest first. A tenant sees those of its own requests."""
        return await self.call(
            "GET",
            f"/adapters/{quoted(name)}/aliases/{quoted(alias)}/rollouts/{quoted(rollout)}/pairs",
            RolloutPairPage,
            query={"limit": limit, "page_token": page_token},
        )

    async def list_all_rollouts(
        self,
        *,
        state: Literal["running", "promoted", "rolled_back", "aborted", "superseded"] | None = None,
        limit: int = 50,
        page_token: str | None = None,
    ) -> RolloutPage:
        """Of all adapters, newest first. state: only those that are in it."""
        return await self.call(
            "GET", "/rollouts", RolloutPage, query={"state": state, "limit": limit, "page_token": page_token}
        )

    async def promote_rollout(self, name: str, alias: str, *, if_match: str | None = None) -> Rollout:
        """The candidate for every user."""
        return await self.call(
            "POST",
            f"/adapters/{quoted(name)}/aliases/{quoted(alias)}/rollout:promote",
            Rollout,
            headers={"if-match": if_match},
        )

    async def abort_rollout(self, name: str, alias: str, *, if_match: str | None = None) -> Rollout:
        """The stable version for every user."""
        return await self.call(
            "POST",
            f"/adapters/{quoted(name)}/aliases/{quoted(alias)}/rollout:abort",
            Rollout,
            headers={"if-match": if_match},
        )

    async def list_jobs(
        self,
        *,
        limit: int = 50,
        page_token: str | None = None,
        state: Literal["queued", "running", "succeeded", "failed", "cancelled"] | None = None,
        adapter: str | None = None,
    ) -> JobPage:
        """Newest first."""
        return await self.call(
            "GET",
            "/jobs",
            JobPage,
            query={"limit": limit, "page_token": page_token, "state": state, "adapter": adapter},
        )

    async def get_job(self, job_id: str) -> Job:
        """The job; its progress as it goes on when Accept asks for text/event-stream."""
        return await self.call("GET", f"/jobs/{quoted(job_id)}", Job)

    async def cancel_job(self, job_id: str) -> Job:
        """Its version is rejected; 409 when the job has ended."""
        return await self.call("POST", f"/jobs/{quoted(job_id)}:cancel", Job)

    async def list_replicas(self, *, on_disk: bool = True) -> ReplicaPage:
        """Each engine: pid, state, which adapters it has where; on_disk=false: without those on disk alone."""
        return await self.call("GET", "/replicas", ReplicaPage, query={"on_disk": on_disk})

    async def list_events(
        self,
        *,
        cursor: int = 0,
        limit: int = 100,
        newest: bool = False,
        type: Sequence[str] | None = None,
        last_event_id: str | None = None,
    ) -> EventPage:
        """What happened after `cursor`, oldest first; a live feed when Accept asks for text/event-stream."""
        return await self.call(
            "GET",
            "/events",
            EventPage,
            query={"cursor": cursor, "limit": limit, "newest": newest, "type": type},
            headers={"last-event-id": last_event_id},
        )

    async def list_audit(
        self, *, limit: int = 100, page_token: str | None = None, adapter: str | None = None
    ) -> AuditPage:
        """Who did what, newest first. adapter: only what was done to it, its versions and its aliases."""
        return await self.call(
            "GET", "/audit", AuditPage, query={"limit": limit, "page_token": page_token, "adapter": adapter}
        )

    async def create_tenant(self, body: NewTenant, *, if_none_match: str | None = None) -> Tenant:
        """A tenant owns keys; its limits and its share of the cache are those of all of them together."""
        return await self.call("POST", "/tenants", Tenant, headers={"if-none-match": if_none_match}, body=body)

    async def list_tenants(self) -> TenantPage:
        """By name, all of them."""
        return await self.call("GET", "/tenants", TenantPage)

    async def get_tenant(self, tenant: str) -> Tenant:
        """Get tenant."""
        return await self.call("GET", f"/tenants/{quoted(tenant)}", Tenant)

    async def change_tenant(self, tenant: str, body: TenantPatch, *, if_match: str | None = None) -> Tenant:
        """Holds from the next request on; null lifts a limit."""
        return await self.call("PATCH", f"/tenants/{quoted(tenant)}", Tenant, headers={"if-match": if_match}, body=body)

    async def get_tenant_limits(self, tenant: str, *, window: Literal["day", "week", "month"] = "day") -> LimitsNow:
        """What is left of its limits now; peaks and refusals of the last 1, 7 or 30 days. A tenant sees its own."""
        return await self.call("GET", f"/tenants/{quoted(tenant)}/limits", LimitsNow, query={"window": window})

    async def create_key(self, body: NewKey) -> NewlyMadeKey:
        """The answer's `key` is shown this once."""
        return await self.call("POST", "/keys", NewlyMadeKey, body=body)

    async def list_keys(self, *, tenant: str | None = None) -> KeyPage:
        """Oldest first; `tenant`: only this one's."""
        return await self.call("GET", "/keys", KeyPage, query={"tenant": tenant})

    async def get_key(self, key_id: str) -> Key:
        """Get key."""
        return await self.call("GET", f"/keys/{quoted(key_id)}", Key)

    async def revoke_key(self, key_id: str, *, if_match: str | None = None) -> None:
        """Refused from the next request on; it stays in the list, with `revoked_at`."""
        await self.call("DELETE", f"/keys/{quoted(key_id)}", None, headers={"if-match": if_match})

    async def rotate_key(self, key_id: str, body: KeyRotation, *, if_match: str | None = None) -> NewlyMadeKey:
        """A new key like the old one, which goes on working for `overlap_seconds`."""
        return await self.call(
            "POST", f"/keys/{quoted(key_id)}:rotate", NewlyMadeKey, headers={"if-match": if_match}, body=body
        )

    async def get_usage(
        self,
        *,
        tenant: str | None = None,
        adapter: str | None = None,
        key: str | None = None,
        since: str | None = None,
        until: str | None = None,
        group_by: Sequence[Literal["day", "tenant", "adapter", "key"]] = ("day", "tenant", "adapter"),
        limit: int = 100,
        page_token: str | None = None,
    ) -> UsagePage:
        """Sums by day (UTC), tenant and adapter, by fewer, or by key (its id). `since`, `until`: days, both counted."""
        return await self.call(
            "GET",
            "/usage",
            UsagePage,
            query={
                "tenant": tenant,
                "adapter": adapter,
                "key": key,
                "since": since,
                "until": until,
                "group_by": group_by,
                "limit": limit,
                "page_token": page_token,
            },
        )

    async def get_budgets(self, *, tenant: str | None = None) -> BudgetPage:
        """What is used of each budget in the present day or month (UTC), by tenant."""
        return await self.call("GET", "/budgets", BudgetPage, query={"tenant": tenant})

    async def get_refusals(
        self, *, tenant: str | None = None, window: Literal["day", "week", "month"] = "day"
    ) -> RefusalPage:
        """Requests that were refused, by tenant and cause: today, in the last 7 or the last 30 days (UTC)."""
        return await self.call("GET", "/refusals", RefusalPage, query={"tenant": tenant, "window": window})

    async def list_webhooks(self) -> WebhookPage:
        """Oldest first."""
        return await self.call("GET", "/webhooks", WebhookPage)

    async def create_webhook(self, body: NewWebhook) -> WebhookWithSecret:
        """Events from now on are POSTed to the URL, signed as Standard Webhooks has it; `secret` is shown this once."""
        return await self.call("POST", "/webhooks", WebhookWithSecret, body=body)

    async def get_webhook(self, webhook_id: str) -> Webhook:
        """Get webhook."""
        return await self.call("GET", f"/webhooks/{quoted(webhook_id)}", Webhook)

    async def change_webhook(self, webhook_id: str, body: WebhookPatch, *, if_match: str | None = None) -> Webhook:
        """Change webhook."""
        return await self.call(
            "PATCH", f"/webhooks/{quoted(webhook_id)}", Webhook, headers={"if-match": if_match}, body=body
        )

    async def delete_webhook(self, webhook_id: str, *, if_match: str | None = None) -> None:
        """With its deliveries, those on their way included."""
        await self.call("DELETE", f"/webhooks/{quoted(webhook_id)}", None, headers={"if-match": if_match})

    async def rotate_webhook(self, webhook_id: str, *, if_match: str | None = None) -> WebhookWithSecret:
        """A new secret signs from now on."""
        return await self.call(
            "POST", f"/webhooks/{quoted(webhook_id)}:rotate", WebhookWithSecret, headers={"if-match": if_match}
        )

    async def test_webhook(self, webhook_id: str) -> Delivery:
        """Sends a `webhook.test` message now, once, and tells what came back."""
        return await self.call("POST", f"/webhooks/{quoted(webhook_id)}:test", Delivery)

    async def list_deliveries(self, webhook_id: str, *, limit: int = 50, page_token: str | None = None) -> DeliveryPage:
        """Newest first; kept for a week."""
        return await self.call(
            "GET",
            f"/webhooks/{quoted(webhook_id)}/deliveries",
            DeliveryPage,
            query={"limit": limit, "page_token": page_token},
        )

    async def redeliver(self, webhook_id: str, delivery: int) -> Delivery:
        """The same message once more, with all its retries."""
        return await self.call(
            "POST", f"/webhooks/{quoted(webhook_id)}/deliveries/{quoted(delivery)}:redeliver", Delivery
        )

    async def list_base_models(self) -> ModelPage:
        """The one that the server was started with first."""
        return await self.call("GET", "/models", ModelPage)

    async def load_model(self, body: NewModel) -> LoadedModel:
        """Serves one more base model; its `job` tells how far that is, here and when it is listed."""
        return await self.call("POST", "/models", LoadedModel, body=body)

    async def get_base_model(self, name: str) -> LoadedModel:
        """Get base model."""
        return await self.call("GET", f"/models/{quoted(name)}", LoadedModel)

    async def unload_model(self, name: str) -> None:
        """Its requests end within --drain-timeout, then its engines; adapters stay registered."""
        await self.call("DELETE", f"/models/{quoted(name)}", None)

    async def get_series(self, *, window: int = 900) -> SeriesAnswer:
        """The last `window` seconds: second by second up to 15 minutes, beyond that minute by minute."""
        return await self.call("GET", "/series", SeriesAnswer, query={"window": window})

    async def list_alerts(self) -> AlertPage:
        """What to look at now, the worst first."""
        return await self.call("GET", "/alerts", AlertPage)

    async def get_slots(self, *, replica: str | None = None, model: str | None = None) -> SlotsAnswer:
        """Which adapters are on the device of each engine, and the last loads and evictions."""
        return await self.call("GET", "/slots", SlotsAnswer, query={"replica": replica, "model": model})

    async def ask_capacity(self, body: CapacityQuestion, *, model: str | None = None) -> CapacityAnswer:
        """Whether adapters of these ranks and so much context fit at the same time."""
        return await self.call("POST", "/capacity", CapacityAnswer, query={"model": model}, body=body)

    async def list_settings(self) -> SettingPage:
        """Every setting, and where its value came from; no secrets. What the engine chooses is as it chose."""
        return await self.call("GET", "/settings", SettingPage)

    async def get_doctor(self) -> DoctorPage:
        """What `multiflora doctor` says of the server's machine, of the disk with its data and of each base model."""
        return await self.call("GET", "/doctor", DoctorPage)

    async def list_requests(
        self,
        *,
        limit: int = 100,
        page_token: str | None = None,
        model: str | None = None,
        status: int | None = None,
        tenant: str | None = None,
        id: str | None = None,
        since: str | None = None,
    ) -> RequestPage:
        """The last 50,000 prompts and refusals, newest first, without texts. since: what changed; id: that one."""
        return await self.call(
            "GET",
            "/requests",
            RequestPage,
            query={
                "limit": limit,
                "page_token": page_token,
                "model": model,
                "status": status,
                "tenant": tenant,
                "id": id,
                "since": since,
            },
        )

    async def get_request(self, id: str) -> RequestView:
        """One prompt, by its id, its answer's or its X-Request-ID, with its stages; for admins its texts where kept."""
        return await self.call("GET", f"/requests/{quoted(id)}", RequestView)

    async def explain_request(self, id: str) -> CacheExplanation:
        """What the prefix cache had of one prompt, where it parts from the closest before it, why, what to do."""
        return await self.call("GET", f"/requests/{quoted(id)}/cache", CacheExplanation)

    async def get_activity(self) -> ActivityAnswer:
        """Requests of the last 7 days (UTC), and how fast the last answers came, by adapter; those that were used."""
        return await self.call("GET", "/activity", ActivityAnswer)

    async def get_cache(self, *, replica: str | None = None, model: str | None = None) -> CacheAnswer:
        """Everything that is cached, as a tree of runs of blocks; the 500 longest of each engine."""
        return await self.call("GET", "/cache", CacheAnswer, query={"replica": replica, "model": model})

    async def list_misses(self, *, model: str | None = None) -> MissPage:
        """The last prompts of which the cache had less than it could have, and why; newest first."""
        return await self.call("GET", "/cache/misses", MissPage, query={"model": model})

    async def list_losses(self, *, model: str | None = None) -> LossPage:
        """Tokens that the last 100 misses lost, by cause, with what to do about each."""
        return await self.call("GET", "/cache/losses", LossPage, query={"model": model})

    async def warm_cache(self, body: WarmPrompt, *, replica: str | None = None) -> WarmAnswer:
        """Computes a prompt or the beginning of a conversation now, so that a tenant's or admins' requests find it."""
        return await self.call("POST", "/cache:warm", WarmAnswer, query={"replica": replica}, body=body)

    async def audit_reuse(self, body: AuditQuestion) -> ReuseAudit:
        """Answers a sample of the last prompts with reused documents twice, exactly and not: how near that is."""
        return await self.call("POST", "/cache:audit", ReuseAudit, body=body)

    async def take_cache_trace(self, *, model: str | None = None) -> CacheTrace:
        """Hashes of the blocks of requests that ended since this was asked last; it records for a minute more."""
        return await self.call("POST", "/cache:trace", CacheTrace, query={"model": model})

    async def get_cached_text(
        self, hash: str, *, limit: int | None = None, replica: str | None = None, model: str | None = None
    ) -> CacheText:
        """The tokens of one run, and what they say."""
        return await self.call(
            "GET", f"/cache/{quoted(hash)}/text", CacheText, query={"limit": limit, "replica": replica, "model": model}
        )

    async def pin_cached(self, hash: str, *, replica: str | None = None, model: str | None = None) -> None:
        """The run and all before it stay cached until they are unpinned or the engine restarts."""
        await self.call("POST", f"/cache/{quoted(hash)}:pin", None, query={"replica": replica, "model": model})

    async def unpin_cached(self, hash: str, *, replica: str | None = None, model: str | None = None) -> None:
        """It may be evicted again."""
        await self.call("POST", f"/cache/{quoted(hash)}:unpin", None, query={"replica": replica, "model": model})

    async def drop_cached(self, hash: str, *, replica: str | None = None, model: str | None = None) -> None:
        """The run and everything that continues it are found no more; requests that use them go on."""
        await self.call("POST", f"/cache/{quoted(hash)}:drop", None, query={"replica": replica, "model": model})

    async def list_cache_events(
        self,
        *,
        cursor: int | None = None,
        limit: int = 1000,
        snapshot: bool = False,
        replica: str | None = None,
        model: str | None = None,
        last_event_id: str | None = None,
    ) -> CacheEventPage:
        """What was cached and given up after `cursor`; a live feed when Accept asks for text/event-stream."""
        return await self.call(
            "GET",
            "/cache/events",
            CacheEventPage,
            query={"cursor": cursor, "limit": limit, "snapshot": snapshot, "replica": replica, "model": model},
            headers={"last-event-id": last_event_id},
        )

    async def explain_cache(self, body: CacheQuestion) -> CacheExplanation:
        """What the prefix cache has of a prompt, where it parts from an earlier one, and why. Nothing is generated."""
        return await self.call("POST", "/cache:explain", CacheExplanation, body=body)

    async def list_drift(self) -> DriftPage:
        """Where the last hour's prompts part over and over, by what, its cost, and the fix; admins see all tenants'."""
        return await self.call("GET", "/cache/drift", DriftPage)

    async def list_contexts(
        self, *, tenant: str | None = None, limit: int = 100, page_token: str | None = None
    ) -> ContextPage:
        """By tenant and name; admins see all, or a tenant's."""
        return await self.call(
            "GET", "/contexts", ContextPage, query={"tenant": tenant, "limit": limit, "page_token": page_token}
        )

    async def put_context(
        self,
        name: str,
        body: ContextBody,
        *,
        tenant: str | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> Context:
        """Makes or replaces it; it is computed afterwards and held, within the tenant's budget (409 when full)."""
        return await self.call(
            "PUT",
            f"/contexts/{quoted(name)}",
            Context,
            query={"tenant": tenant},
            headers={"if-match": if_match, "if-none-match": if_none_match},
            body=body,
        )

    async def get_context(self, name: str, *, tenant: str | None = None) -> Context:
        """What the engine has of it now."""
        return await self.call("GET", f"/contexts/{quoted(name)}", Context, query={"tenant": tenant})

    async def change_context(
        self, name: str, body: ContextPatch, *, tenant: str | None = None, if_match: str | None = None
    ) -> Context:
        """Of the fields that are sent; what is not yet computed of it is computed."""
        return await self.call(
            "PATCH",
            f"/contexts/{quoted(name)}",
            Context,
            query={"tenant": tenant},
            headers={"if-match": if_match},
            body=body,
        )

    async def delete_context(self, name: str, *, tenant: str | None = None, if_match: str | None = None) -> None:
        """Its blocks are held no more; requests that name it are a 404."""
        await self.call(
            "DELETE", f"/contexts/{quoted(name)}", None, query={"tenant": tenant}, headers={"if-match": if_match}
        )

    async def list_evals(self, name: str, *, limit: int = 100, page_token: str | None = None) -> EvalSetPage:
        """By name."""
        return await self.call(
            "GET", f"/adapters/{quoted(name)}/evals", EvalSetPage, query={"limit": limit, "page_token": page_token}
        )

    async def put_eval(
        self,
        name: str,
        eval_name: str,
        body: EvalSetBody,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
    ) -> EvalSet:
        """Makes or replaces it; other cases than before are another version of the set."""
        return await self.call(
            "PUT",
            f"/adapters/{quoted(name)}/evals/{quoted(eval_name)}",
            EvalSet,
            headers={"if-match": if_match, "if-none-match": if_none_match},
            body=body,
        )

    async def get_eval(self, name: str, eval_name: str, *, version: int | None = None) -> EvalSet:
        """With its prompts; version: none: the newest."""
        return await self.call(
            "GET", f"/adapters/{quoted(name)}/evals/{quoted(eval_name)}", EvalSet, query={"version": version}
        )

    async def change_eval(
        self, name: str, eval_name: str, body: EvalSetPatch, *, if_match: str | None = None
    ) -> EvalSet:
        """Its description, and what it gates."""
        return await self.call(
            "PATCH",
            f"/adapters/{quoted(name)}/evals/{quoted(eval_name)}",
            EvalSet,
            headers={"if-match": if_match},
            body=body,
        )

    async def delete_eval(self, name: str, eval_name: str, *, if_match: str | None = None) -> None:
        """With its versions and all runs."""
        await self.call(
            "DELETE", f"/adapters/{quoted(name)}/evals/{quoted(eval_name)}", None, headers={"if-match": if_match}
        )

    async def add_eval_case(self, name: str, eval_name: str, body: EvalCase) -> EvalSet:
        """One more prompt at the end of a set, which is made where there is none: another version of it."""
        return await self.call("POST", f"/adapters/{quoted(name)}/evals/{quoted(eval_name)}/cases", EvalSet, body=body)

    async def run_eval(self, name: str, eval_name: str, body: EvalRunBody) -> EvalRun:
        """Queued: it is asked in the background, behind every request that a client waits for."""
        return await self.call("POST", f"/adapters/{quoted(name)}/evals/{quoted(eval_name)}/runs", EvalRun, body=body)

    async def get_eval_matrix(self, name: str, eval_name: str, *, version: int | None = None) -> EvalMatrix:
        """Versions by prompts: the newest completed run of each version, mix or other model."""
        return await self.call(
            "GET", f"/adapters/{quoted(name)}/evals/{quoted(eval_name)}/matrix", EvalMatrix, query={"version": version}
        )

    async def list_eval_runs(
        self,
        name: str,
        *,
        eval: str | None = None,
        version: int | None = None,
        state: Literal["queued", "running", "completed", "cancelled", "failed"] | None = None,
        limit: int = 100,
        page_token: str | None = None,
    ) -> EvalRunPage:
        """Newest first: scores over time. eval: a set's name. version: of the adapter."""
        return await self.call(
            "GET",
            f"/adapters/{quoted(name)}/eval-runs",
            EvalRunPage,
            query={"eval": eval, "version": version, "state": state, "limit": limit, "page_token": page_token},
        )

    async def compare_eval_runs(self, name: str, *, left: int, right: int) -> EvalComparison:
        """Two runs, prompt by prompt: what the right one does better and worse."""
        return await self.call(
            "GET", f"/adapters/{quoted(name)}/eval-runs:compare", EvalComparison, query={"left": left, "right": right}
        )

    async def get_eval_run(self, name: str, run: str, *, results: bool = True) -> EvalRunResults:
        """With what was answered so far, and what each check found. results: false: without, to see how far it is."""
        return await self.call(
            "GET", f"/adapters/{quoted(name)}/eval-runs/{quoted(run)}", EvalRunResults, query={"results": results}
        )

    async def cancel_eval_run(self, name: str, run: str) -> EvalRun:
        """What has been answered stays; the rest is not asked."""
        return await self.call("POST", f"/adapters/{quoted(name)}/eval-runs/{quoted(run)}:cancel", EvalRun)

    async def list_profiles(self) -> ProfilePage:
        """The last ones, the newest first."""
        return await self.call("GET", "/profile", ProfilePage)

    async def start_profile(self, body: NewProfile) -> Profile:
        """Begins to record; requests go on meanwhile. One at a time: 409 `profile-running` while another one is."""
        return await self.call("POST", "/profile", Profile, body=body)

    async def get_profile(self, id: str) -> Profile:
        """One profile: whether it is done."""
        return await self.call("GET", f"/profile/{quoted(id)}", Profile)
