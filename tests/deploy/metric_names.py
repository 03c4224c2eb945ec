"""What files to deploy with ask of /metrics, and what /metrics has: names, each with its labels."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache

from prometheus_client.parser import text_string_to_metric_families

from multiflora_engine.protocol.messages import EngineStats, Ready, TierStats
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.engine import Placement
from multiflora_platform.observability.metrics import Metrics
from multiflora_platform.observability.nvml import Gpu
from multiflora_platform.observability.observers import PromptStart
from multiflora_platform.observability.scrape import EngineView, ReplicaView

_NAMED = re.compile(r"\b(?:vllm:|multiflora_|process_)\w+")
_SELECTED = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"")
_GROUPED = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")


def names_in(expression: str) -> set[str]:
    """The families of PromQL."""
    return set(_NAMED.findall(expression))


def labels_in(expression: str) -> set[str]:
    """Those that PromQL selects or groups by, but the scrape's own."""
    grouped = {label.strip() for labels in _GROUPED.findall(expression) for label in labels.split(",")}
    return ({*_SELECTED.findall(expression)} | grouped) - {"instance", "job", ""}


def samples_of(page: str) -> dict[str, set[str]]:
    """Name of a sample -> its labels."""
    samples: defaultdict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            samples[sample.name] |= sample.labels.keys()
    return dict(samples)


@cache
def samples() -> dict[str, set[str]]:
    """What a server has at most, as `samples_of` writes it."""
    return samples_of(_full_page())


def _full_page() -> str:
    """/metrics of a server that has everything: two replicas, a GPU, copies behind the device, requests that ended."""
    metrics = Metrics("base")
    metrics.http("POST", "/v1/completions", 200)
    prompt = metrics.of("base").prompt("sql", "acme", 3, SamplingParams(), arrival=0.0)
    prompt.started(PromptStart(0, 0.0, 0.0, ""))
    prompt.ended("ok", None)
    router = metrics.of("base").router
    router.decided(0.0)
    router.placed(Placement("0", "tie"))
    router.moved("0", "drain")
    router.began(Placement("0", "tie", cached_tokens=0), 0)
    sizes = dict.fromkeys((field for field in TierStats.__struct_fields__ if field != "name"), 0)
    stats = EngineStats(tiers=[TierStats(name="host", **sizes)])
    view = EngineView(
        model="base",
        state="ready",
        restarts=0,
        stats=stats,
        ready=Ready("cpu", "float32", 1, 16, 32, 1, 1, 1, 1, 1),
        replicas=[
            ReplicaView(str(id), "ready", 0, None, stats, 0.0, Ready("cpu", "float32", 1, 16, 32, 1, 1, 1, 1, 1))
            for id in range(2)
        ],
    )
    return (metrics.render([view], [Gpu(0, "GPU", (9, 0), 0.5, 1)]) + metrics.render_tenants()).decode()
