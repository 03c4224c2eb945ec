"""Prometheus' own tool reads the rules and tries them; what they name is on /metrics."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.deploy.metric_names import labels_in, names_in, samples

FOLDER = Path(__file__).parents[2] / "deploy/prometheus"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((FOLDER / "rules.yml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool")


def promtool(*arguments: str | Path) -> None:
    assert PROMTOOL is not None
    ran = subprocess.run([PROMTOOL, *map(str, arguments)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@needs_promtool
def test_each_alert_fires_when_it_should_and_not_below() -> None:
    promtool("test", "rules", FOLDER / "rules_test.yml")


def test_each_alert_is_tried_both_ways() -> None:
    tried = yaml.safe_load((FOLDER / "rules_test.yml").read_text(encoding="utf-8"))["tests"]
    expected = [(one["alertname"], bool(one.get("exp_alerts"))) for test in tried for one in test["alert_rule_test"]]
    assert {(rule["alert"], fires) for rule in RULES for fires in (True, False)} == set(expected)


@needs_promtool
def test_the_configuration_is_one_with_its_rules_beside_it(tmp_path: Path) -> None:
    text = (FOLDER / "prometheus.yml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    assert config["rule_files"] == ["rules.yml"]
    key = tmp_path / "key"
    key.write_text("mf-key", encoding="utf-8")
    there = config["scrape_configs"][0]["authorization"]["credentials_file"]
    (tmp_path / "prometheus.yml").write_text(text.replace(there, str(key)), encoding="utf-8")
    shutil.copy(FOLDER / "rules.yml", tmp_path)
    promtool("check", "config", "--lint-fatal", tmp_path / "prometheus.yml")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_is_there_and_says_what_to_do(rule: dict[str, Any]) -> None:
    told = samples()
    named = names_in(rule["expr"])
    assert named <= told.keys()
    assert named or rule["alert"] == "MultifloraDown"
    assert labels_in(rule["expr"]) <= {label for name in named for label in told[name]}
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "description"}
