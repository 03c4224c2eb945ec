"""The dashboard: each panel asks for what /metrics has, in PromQL that Prometheus reads, on a grid without overlaps."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.metric_names import labels_in, names_in, samples
from tests.deploy.test_prometheus import needs_promtool, promtool

FOLDER = Path(__file__).parents[2] / "deploy/grafana"
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
ROWS = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]


def expressions(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_asks_for_what_is_there(panel: dict[str, Any]) -> None:
    told = samples()
    for target in panel["targets"]:
        named = names_in(target["expr"])
        assert named
        assert named <= told.keys()
        known = set.intersection(*(told[name] for name in named))
        assert labels_in(target["expr"]) <= known
        assert set(re.findall(r"{{(\w+)}}", target.get("legendFormat", ""))) - {"instance"} <= known
        # Of the instances that were chosen alone.
        assert target["expr"].count('instance=~"$instance"') == len(
            re.findall(r"(?:vllm:|multiflora_|process_)", target["expr"])
        )


@needs_promtool
def test_every_expression_is_promql(tmp_path: Path) -> None:
    filled = [text.replace("$__rate_interval", "1m") for panel in PANELS for text in expressions(panel)]
    rules = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(filled)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    promtool("check", "rules", tmp_path / "rules.yml")


def test_panels_fill_a_grid_without_overlaps() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_panels_are_named_explained_and_ask_the_source_that_is_chosen() -> None:
    assert {variable["name"] for variable in DASHBOARD["templating"]["list"]} == {"datasource", "instance"}
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"] in ("short", "s", "reqps", "percentunit", "bytes")
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_each_part_of_the_server_has_a_row_and_replicas_are_told_apart() -> None:
    assert {"Prefix cache", "Adapters", "Tenants", "Replicas"} <= set(ROWS)
    of_replicas = [panel for panel in PANELS if any("multiflora_replica_" in text for text in expressions(panel))]
    assert len(of_replicas) >= 5
    assert all("{{replica}}" in target["legendFormat"] for panel in of_replicas for target in panel["targets"])


def test_every_replica_and_router_family_is_on_it() -> None:
    shown = {name for panel in PANELS for text in expressions(panel) for name in names_in(text)}
    families = {re.sub(r"_(?:sum|count|bucket)$", "", name) for name in samples()}
    ours = {name for name in families if name.startswith(("multiflora_replica_", "multiflora_router_"))}
    assert ours <= {name.removesuffix("_bucket") for name in shown}
