"""What is refused of base models, each with its status."""

from __future__ import annotations

from typing import Any, ClassVar

from multiflora_platform.web.problems import Problem

_MIB = 1 << 20


class ModelNotFound(Problem):
    status, slug, title = 404, "model-not-found", "There is no such base model"

    def __init__(self, name: str) -> None:
        super().__init__(f"There is no base model named {name[:80]!r}; GET /api/v1/models lists them.")


class ModelExists(Problem):
    status, slug, title = 409, "model-exists", "The name is taken"


class ModelStays(Problem):
    status, slug, title = 409, "model-is-default", "The default base model cannot be unloaded"


class ModelSourceRefused(Problem):
    status, slug, title = 403, "source-refused", "The server may not read that"


class NotEnoughMemory(Problem):
    """needed: bytes of weights and KV blocks, of all engines of the model. available: bytes that are free."""

    status: ClassVar[int] = 409
    slug, title = "not-enough-memory", "There is not enough memory"

    def __init__(self, name: str, weights: int, kv: int, replicas: int, available: int) -> None:
        self.needed = (weights + kv) * replicas
        super().__init__(
            f"{name!r} needs {self.needed / _MIB:.0f} MiB for {replicas} engine(s), each {weights / _MIB:.0f} MiB of "
            f"weights and {kv / _MIB:.0f} MiB of KV blocks; {available / _MIB:.0f} MiB are free. Unload another model, "
            "or give fewer max_replicas or a smaller kv_cache_memory."
        )
        self._numbers = {
            "needed_bytes": self.needed,
            "available_bytes": available,
            "weights_bytes": weights,
            "kv_bytes": kv,
            "replicas": replicas,
        }

    @property
    def extra(self) -> dict[str, Any]:
        return self._numbers
