"""The database's tables, by subject, without rules. All are imported: foreign keys and Alembic need every one."""

from __future__ import annotations

from multiflora_platform.storage.integers import LARGEST_NUMBER
from multiflora_platform.storage.tables.accounts import (
    ClosedSessionRow,
    DailyPeakRow,
    DailyRefusalRow,
    DailyUsageRow,
    KeyRow,
    KeyUsageRow,
    MinuteUseRow,
    TenantLeaseRow,
    TenantRow,
)
from multiflora_platform.storage.tables.adapters import (
    STATES,
    AdapterRow,
    AliasMoveRow,
    AliasRow,
    ReportRow,
    VersionFileRow,
    VersionLabelRow,
    VersionRow,
)
from multiflora_platform.storage.tables.base import Base
from multiflora_platform.storage.tables.batches import BatchRow, StoredFileRow
from multiflora_platform.storage.tables.contexts import ContextRow
from multiflora_platform.storage.tables.engines import EngineReplicaRow
from multiflora_platform.storage.tables.evals import EvalResultRow, EvalRunRow, EvalSetRow, EvalSetVersionRow
from multiflora_platform.storage.tables.history import AuditRow, EventRow
from multiflora_platform.storage.tables.jobs import IdempotencyRow, JobRow
from multiflora_platform.storage.tables.models import ModelRow
from multiflora_platform.storage.tables.rollouts import RolloutObservationRow, RolloutRow
from multiflora_platform.storage.tables.webhooks import WebhookDeliveryRow, WebhookRow

__all__ = [
    "LARGEST_NUMBER",
    "STATES",
    "AdapterRow",
    "AliasMoveRow",
    "AliasRow",
    "AuditRow",
    "Base",
    "BatchRow",
    "ClosedSessionRow",
    "ContextRow",
    "DailyPeakRow",
    "DailyRefusalRow",
    "DailyUsageRow",
    "EngineReplicaRow",
    "EvalResultRow",
    "EvalRunRow",
    "EvalSetRow",
    "EvalSetVersionRow",
    "EventRow",
    "IdempotencyRow",
    "JobRow",
    "KeyRow",
    "KeyUsageRow",
    "MinuteUseRow",
    "ModelRow",
    "ReportRow",
    "RolloutObservationRow",
    "RolloutRow",
    "StoredFileRow",
    "TenantLeaseRow",
    "TenantRow",
    "VersionFileRow",
    "VersionLabelRow",
    "VersionRow",
    "WebhookDeliveryRow",
    "WebhookRow",
]
