"""The file that `multiflora ray deploy` reads: groups with settings, and what is wrong with a key said by its name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from multiflora_platform.on_ray.deploy_file import GroupToDeploy, Scale, read_deploy_file
from multiflora_platform.settings import ConfigurationError


def read(folder: Path, environ: dict[str, str] | None = None, **keys: object) -> list[GroupToDeploy]:
    file = folder / "deploy.yaml"
    file.write_text(yaml.safe_dump(keys), encoding="utf-8")
    return list(read_deploy_file(file, environ or {}))


def test_a_groups_keys_stand_before_the_common_ones_and_both_before_the_environment(tmp_path: Path) -> None:
    groups = [{"group": "a", "max-num-seqs": 2, "replicas": 3}, {"group": "b", "min_replicas": 1, "max_replicas": 4}]
    environ = {"MULTIFLORA_MAX_NUM_SEQS": "4", "MULTIFLORA_DRAIN_TIMEOUT": "5"}
    a, b = read(tmp_path, environ, model="org/model", max_num_seqs=3, groups=groups)
    assert (a.settings.max_num_seqs, b.settings.max_num_seqs) == (2, 3)
    assert (a.scale.replicas, b.scale.min_replicas, b.scale.max_replicas) == (3, 1, 4)
    assert a.settings.drain_timeout == 5
    assert b.keys == {"model": "org/model", "max_num_seqs": 3, "group": "b"}, "each node has an environment of its own"


def test_paths_are_sent_as_they_are_meant_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    (group,) = read(tmp_path, model="model", secret_file="secret", groups=[{"group": "a"}])
    assert group.keys["model"] == str(tmp_path / "model")
    assert group.keys["secret_file"] == str(tmp_path / "secret")


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({}, "needs `groups:`"),
        ({"groups": ["a"]}, "number 1 must hold"),
        ({"groups": [{"model": "m"}]}, "number 1 needs `group:`"),
        ({"groups": [{"group": "a", "max_num_seq": 2}]}, "max_num_seq"),
        ({"groups": [{"group": "a"}], "tensor_paralel_size": 2}, "did you mean `tensor_parallel_size:`"),
        ({"groups": [{"group": "a", "max_num_seqs": "many"}]}, "max_num_seqs"),
        ({"groups": [{"group": "a", "replicas": 0}]}, "replicas: expected int >= 1"),
        ({"groups": [{"group": "a", "ports": [5, 4]}]}, "ports: the first, 5, is above"),
        ({"groups": [{"group": "a", "min_replicas": 1}]}, "both `min_replicas` and `max_replicas`"),
        ({"groups": [{"group": "a", "replicas": 2, "min_replicas": 1, "max_replicas": 2}]}, "give `replicas`, or both"),
        ({"groups": [{"group": "a", "min_replicas": 3, "max_replicas": 2}]}, "min_replicas is 3"),
        ({"groups": [{"group": "a", "listen": "tcp://h:1"}]}, "listen: the address is chosen"),
        ({"groups": [{"group": "a", "data-parallel-size": 2}]}, "give `replicas`"),
        ({"groups": [{"group": "a"}, {"group": "a"}]}, "two groups 'a'"),
    ],
)
def test_what_is_wrong_is_told_by_key(tmp_path: Path, keys: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        read(tmp_path, **keys)
    assert told in str(raised.value)
    assert "deploy.yaml" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read .*none\.yaml"):
        read_deploy_file(tmp_path / "none.yaml")


def test_the_page_shows_a_file_that_is_taken_and_names_every_key(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "ray.md").read_text(encoding="utf-8")
    shown = re.search(r"```yaml\n(.+?)```", page, re.DOTALL)
    assert shown is not None
    file = tmp_path / "deploy.yaml"
    file.write_text(shown[1], encoding="utf-8")
    chat, large = read_deploy_file(file, {})
    assert (chat.scale.max_replicas, chat.settings.max_lora_rank) == (8, 32)
    assert (large.scale.ports, large.settings.tensor_parallel_size) == ((20000, 20099), 4)
    rows = re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE)
    assert {key for row in rows for key in re.findall(r"`(\w+)`", row)} == set(Scale.__struct_fields__)
