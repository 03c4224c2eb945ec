"""Which base models requests added: a server on the same database loads them at its start."""

from __future__ import annotations

from sqlalchemy import delete, select

from multiflora_platform.base_models.model_schemas import NewModel
from multiflora_platform.storage.database import Change, Database
from multiflora_platform.storage.tables import ModelRow


class KeptModels:
    """Each change is one transaction with its event. Raises Unavailable while the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[NewModel]:
        """In the order in which they came."""
        async with self._database.read() as session:
            rows = await session.scalars(select(ModelRow).order_by(ModelRow.created_at, ModelRow.name))
            return [
                NewModel(row.name, row.source, row.options, row.min_replicas, row.max_replicas, row.idle_seconds)
                for row in rows
            ]

    async def keep(self, model: NewModel, actor: str) -> None:
        """Instead of one of the same name, whose load failed."""

        async def work(change: Change) -> None:
            row = ModelRow(
                name=model.name,
                source=model.source,
                options=model.options,
                min_replicas=model.min_replicas,
                max_replicas=model.max_replicas,
                idle_seconds=model.idle_seconds,
                created_by=actor,
                created_at=change.now,
            )
            await change.session.merge(row)
            change.record("model.loading", model.name, model=model.name)

        await self._database.write(actor, work)

    async def forget(self, name: str, actor: str) -> None:
        """Nothing but the event where the configuration file named it."""

        async def work(change: Change) -> None:
            await change.session.execute(delete(ModelRow).where(ModelRow.name == name))
            change.record("model.unloading", name, model=name)

        await self._database.write(actor, work)
