"""The registry and administration from Python: `Client` for waiting, `AsyncClient` for awaiting.

    with Client("http://127.0.0.1:8000", api_key="mf-…") as client:
        client.upload("sql", {"adapter.tar.gz": Path("adapter.tar.gz")}, promote=True)
        for adapter in client.every(client.list_adapters, tag="prod"):
            print(adapter.name, adapter.aliases)

Completions and chat are OpenAI's API: use OpenAI's client for them.
"""

from multiflora.client.operations import AsyncClient, Client
from multiflora.client.transport import ApiProblem
from multiflora_platform.auth.account_requests import (
    KeyRotation,
    NewKey,
    NewTenant,
    TenantPatch,
)
from multiflora_platform.base_models.model_schemas import NewModel
from multiflora_platform.contexts.context_schemas import ContextBody, ContextPatch
from multiflora_platform.evals.checks import (
    ContainsCheck,
    EvalCase,
    ExactCheck,
    JsonSchemaCheck,
    JudgeCheck,
    NumberCheck,
    RegexCheck,
)
from multiflora_platform.evals.schemas import EvalRunBody, EvalSetBody, EvalSetPatch, MixPartBody
from multiflora_platform.insight.bodies import AuditQuestion, CacheQuestion, CapacityQuestion, NewProfile, WarmPrompt
from multiflora_platform.registry.schemas.bodies import (
    AdapterPatch,
    AliasTarget,
    NewAdapter,
    VersionSource,
)
from multiflora_platform.registry.schemas.rollouts import NewRollout, RolloutPatch
from multiflora_platform.registry.schemas.version_metadata import Eval, Lineage, VersionPatch
from multiflora_platform.webhooks.webhook_schemas import NewWebhook, WebhookPatch

__all__ = [
    "AdapterPatch",
    "AliasTarget",
    "ApiProblem",
    "AsyncClient",
    "AuditQuestion",
    "CacheQuestion",
    "CapacityQuestion",
    "Client",
    "ContainsCheck",
    "ContextBody",
    "ContextPatch",
    "Eval",
    "EvalCase",
    "EvalRunBody",
    "EvalSetBody",
    "EvalSetPatch",
    "ExactCheck",
    "JsonSchemaCheck",
    "JudgeCheck",
    "KeyRotation",
    "Lineage",
    "MixPartBody",
    "NewAdapter",
    "NewKey",
    "NewModel",
    "NewProfile",
    "NewRollout",
    "NewTenant",
    "NewWebhook",
    "NumberCheck",
    "RegexCheck",
    "RolloutPatch",
    "TenantPatch",
    "VersionPatch",
    "VersionSource",
    "WarmPrompt",
    "WebhookPatch",
]
