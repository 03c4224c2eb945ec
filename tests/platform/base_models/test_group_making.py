"""The steps that the default base model and all others share: engines, what the registry asks of them, grammars."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.platform.fleet.lines import a_request

from multiflora_adapters.kv_reach import BASE_KV
from multiflora_platform.base_models.group_making import make_fleet, make_group, make_link, route_by_content
from multiflora_platform.base_models.opening import open_model
from multiflora_platform.observability.metrics import Metrics
from multiflora_platform.settings import Settings

DEMO = Path(__file__).parents[3] / "examples" / "demo" / "base"
METRICS = Metrics("base")
KEYS: Any = SimpleNamespace(secret=b"secret")
CONTEXTS: Any = SimpleNamespace(book=SimpleNamespace())
REGISTRY: Any = SimpleNamespace(snapshot=SimpleNamespace(kv_reach=lambda digest: BASE_KV))


async def test_one_more_base_model_has_engines_named_after_it_and_its_contexts_are_computed(tmp_path: Path) -> None:
    settings = Settings(
        model=str(DEMO),
        served_model_name=("second",),
        replicas=2,
        device="cpu",
        data_dir=tmp_path,
        routing="least-loaded",
    )
    opened = open_model(settings)
    services: Any = SimpleNamespace(metrics=METRICS, registry=REGISTRY, keys=KEYS, contexts=CONTEXTS, lines=None)
    group, fleet, link = make_group(services, settings, opened)
    assert (group.name, group.base_digest, group.engine) == ("second", opened.base.digest, fleet)
    assert [(one.id, one.group) for one in fleet.replicas] == [("second-0", "second"), ("second-1", "second")]
    assert [one.id for one in make_fleet(settings, opened, METRICS).replicas] == ["0", "1"]
    assert link.base == opened.base
    assert link.warm_contexts is not None
    await group.grammars.close()


def test_adapters_may_name_any_base_model_by_its_source(tmp_path: Path) -> None:
    """The default one, too, whatever it is served as."""
    settings = Settings(model=str(DEMO), served_model_name=("renamed",), device="cpu", data_dir=tmp_path)
    opened = open_model(settings)
    link = make_link(make_fleet(settings, opened, METRICS), opened, KEYS, CONTEXTS.book)
    assert (link.base.name, link.names) == ("renamed", (str(DEMO),))


@pytest.mark.parametrize("cached", [True, False])
def test_prompts_are_looked_up_where_there_is_a_prefix_cache(tmp_path: Path, cached: bool) -> None:
    settings = Settings(model=str(DEMO), device="cpu", data_dir=tmp_path, enable_prefix_caching=cached)
    opened = open_model(settings)
    fleet = make_fleet(settings, opened, METRICS)
    route_by_content(fleet, settings, opened, REGISTRY)
    assert len(next(fleet._router.hashes(a_request("a", list(range(40))), 16))) == (2 if cached else 0)
