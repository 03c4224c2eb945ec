"""What a key may be narrowed to. A key without scopes may do all that its role may."""

from __future__ import annotations

import re
from typing import Literal, get_args

Scope = Literal["inference", "registry:read", "registry:write", "usage:read", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_API = "/api/v1/"
# Says that something has changed, and not what.
_LIVE = "/api/v1/live"
_EXPLAIN = "/api/v1/cache:explain"
_DRIFT = "/api/v1/cache/drift"
_LIMITS = re.compile(r"/api/v1/tenants/[^/]+/limits")
_READS = ("GET", "HEAD")


def scope_of(method: str, path: str) -> Scope | None:
    """The scope that a request needs; None: any key will do. What is not known to be harmless needs `admin`."""
    if path == _LIVE:
        return None
    if path.startswith(_API):
        kind = path[len(_API) :].partition("/")[0].partition(":")[0]
        if kind in ("adapters", "versions", "jobs"):
            return "registry:read" if method in _READS else "registry:write"
        # Who may send a prompt may ask what the cache has of it, and hold its beginning.
        if path in (_EXPLAIN, _DRIFT) or kind == "contexts":
            return "inference"
        tells_limits = method in _READS and _LIMITS.fullmatch(path) is not None
        return "usage:read" if kind in ("usage", "budgets", "refusals", "requests") or tells_limits else "admin"
    if path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
        return "registry:write"
    if path.startswith("/v1/") or path in ("/tokenize", "/detokenize", "/tokenizer_info"):
        return "inference"
    return "metrics" if path in ("/metrics", "/load", "/version") else "admin"
