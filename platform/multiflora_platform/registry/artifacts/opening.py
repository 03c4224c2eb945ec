"""The artifact store of a data folder, with the origin that hosts share."""

from __future__ import annotations

from pathlib import Path

from multiflora_adapters.store import ArtifactStore
from multiflora_platform.registry.artifacts.s3_origin import S3Origin
from multiflora_platform.storage.s3_bucket import shared_bucket


def open_store(data_dir: Path, address: str | None) -> ArtifactStore:
    """address: of the origin, s3://bucket or s3://bucket/folder. Raises ConfigurationError for what is none."""
    bucket = shared_bucket(address)
    return ArtifactStore(data_dir / "artifacts", None if bucket is None else S3Origin(bucket))
