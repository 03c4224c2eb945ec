"""`models:` of the configuration file: what a model inherits of the server; what is refused before anything loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from multiflora_platform.base_models.model_settings import asked_models, settings_of
from multiflora_platform.configuration import configure
from multiflora_platform.settings import ConfigurationError, Settings

FILE = """
max_num_seqs: 7
hf_overrides: {a: 1}
reasoning_parser: qwen3
models:
  - {name: tiny, source: org/tiny, min_replicas: 0, idle_seconds: 60}
  - name: other
    source: /models/other
    max_replicas: 2
    options: {max-num-seqs: 3, chat_template: template.jinja}
"""


def test_a_model_has_the_servers_machine_and_not_its_models_description(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(FILE, encoding="utf-8")
    server = configure({}, {}, file).settings
    tiny, other = asked_models(server)
    inherited, own = (settings_of(model, server, in_file=True) for model in (tiny, other))
    assert (inherited.model, inherited.served_model_name, inherited.replicas) == ("org/tiny", ("tiny",), 1)
    assert (inherited.max_num_seqs, inherited.hf_overrides, inherited.reasoning_parser) == (7, {}, "none")
    assert (own.max_num_seqs, own.chat_template, own.replicas) == (3, "template.jinja", 2)
    assert inherited.models == own.models == ()


def test_of_a_gateway_it_has_its_engines_on_other_hosts() -> None:
    server = Settings(models=({"name": "tiny", "source": "org/tiny", "options": {"group": "g", "max_model_len": 64}},))
    (model,) = asked_models(server, elsewhere=True)
    assert settings_of(model, server, in_file=True, elsewhere=True).group == "g"
    with pytest.raises(ConfigurationError, match="'group' is no option"):
        asked_models(server)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"options": {"max_num_seqs": 3}}, "'max_num_seqs' is no option"),
        ({"max_replicas": 2}, "starts no engines"),
        ({"min_replicas": 0, "idle_seconds": 5}, "starts no engines"),
    ],
)
def test_what_engines_are_told_a_gateway_does_not_take(more: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        asked_models(Settings(models=({"name": "x", "source": "y", **more},)), elsewhere=True)


def test_the_group_of_the_default_model_is_not_inherited() -> None:
    server = Settings(group="fleet", models=({"name": "x", "source": "y"},))
    (model,) = asked_models(server, elsewhere=True)
    assert settings_of(model, server, in_file=True, elsewhere=True).group is None


def test_on_the_command_line_it_is_json() -> None:
    given = {"models": ['{"name": "tiny", "source": "org/tiny"}']}
    assert [model.name for model in asked_models(configure(given, {}).settings)] == ["tiny"]
    environment = {"MULTIFLORA_MODELS": '[{"name": "a", "source": "b"}, {"name": "c", "source": "d"}]'}
    assert [model.name for model in asked_models(configure({}, environment).settings)] == ["a", "c"]


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ([{"name": "x"}], "number 1: .*source"),
        ([{"name": "x", "source": "y", "colour": 1}], "colour"),
        ([{"name": "../x", "source": "y"}], "not a valid name"),
        ([{"name": "x", "source": "y", "options": {"port": 1}}], "'port' is no option"),
        ([{"name": "x", "source": "y"}] * 2, "two of the name 'x'"),
    ],
)
def test_what_cannot_be_is_a_configuration_error(models: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        asked_models(Settings(models=tuple(models)))


@pytest.mark.parametrize("given", ["no json", "5", [7]])
def test_what_is_no_list_of_models_is_refused_by_name(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="models"):
        configure({"models": given}, {})
