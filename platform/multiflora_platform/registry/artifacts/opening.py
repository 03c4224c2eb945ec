"""The artifact store of a data folder, with the origin that hosts share."""

from __future__ import annotations

from pathlib import Path

from multiflora_adapters.store import ArtifactStore
from multiflora_platform.registry.artifacts.s3_origin import S3Origin
from multiflora_platform.settings import ConfigurationError
from multiflora_platform.storage.s3_bucket import shared_bucket


def open_store(data_dir: Path, address: str | None, cache_bytes: int | None = None) -> ArtifactStore:
    """address: of the origin, s3://bucket or s3://bucket/folder. cache_bytes: of the folder; None: it keeps all. Raises
    ConfigurationError for what is no origin, or where the folder would be a cache of nothing."""
    bucket = shared_bucket(address)
    if bucket is None and cache_bytes is not None:
        raise ConfigurationError(
            "--artifact-cache-bytes needs --artifact-store: what the data folder gives up, a server has nowhere else"
        )
    return ArtifactStore(data_dir / "artifacts", None if bucket is None else S3Origin(bucket), cache_bytes)
