"""Engines that gateways of other hosts may use."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from multiflora_platform.storage.tables.base import Base


class EngineReplicaRow(Base):
    """One engine, as its supervisor tells of it every few seconds. It tells where the engine is; whether it is there,
    the line to it tells. Written by fleet/hosts/replica_table.py."""

    __tablename__ = "engine_replicas"

    # Host and port as gateways reach it: no two engines have the same.
    id: Mapped[str] = mapped_column(String(255), primary_key=True)
    # Its engines answer alike.
    group: Mapped[str] = mapped_column(String(200), index=True)
    # The machine's name.
    host: Mapped[str] = mapped_column(String(255))
    # tcp://host:port
    endpoint: Mapped[str] = mapped_column(Text)
    # By which gateways know it (CURVE, Z85).
    public_key: Mapped[str] = mapped_column(String(40))
    # Of its life, in Unix milliseconds: one that was started again has forgotten what it had cached.
    epoch: Mapped[int] = mapped_column(BigInteger)
    # PROTOCOL of its release.
    protocol: Mapped[int]
    # As EngineSupervisor.state, or draining.
    state: Mapped[str] = mapped_column(String(16))
    # Moved on while its supervisor lives.
    lease_until: Mapped[datetime]
