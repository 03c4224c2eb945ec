"""Servers that would harm each other are refused; those that share PostgreSQL are not."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from multiflora_platform.server.only_server import only_server_of
from multiflora_platform.settings import ConfigurationError, Settings


def test_a_second_server_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    refused = pytest.raises(ConfigurationError, match=rf"process {os.getpid()}.*{tmp_path}")
    with only_server_of(settings), refused, only_server_of(settings):
        pass
    with only_server_of(settings):
        pass


@pytest.mark.parametrize("address", ["nonsense", "postgresql://host:none/x"])
def test_an_address_that_is_none_is_told(tmp_path: Path, address: str) -> None:
    settings = Settings(data_dir=tmp_path, database_url=address)
    with pytest.raises(ConfigurationError, match="no address such as"), only_server_of(settings):
        pass


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ({}, {"data_dir": "b", "database_url": "sqlite:///a/multiflora.db"}, "the database a/multiflora.db"),
        ({}, {"data_dir": "b", "database_url": "sqlite+aiosqlite:///link/multiflora.db"}, "the database link/"),
        ({}, {"database_url": "sqlite:///c/other.db"}, "--data-dir a"),
        ({}, {"data_dir": "link"}, "--data-dir link"),
        ({}, {"database_url": "postgresql://host/db"}, "--data-dir a"),
        ({"database_url": "postgresql://host/db"}, {}, "--data-dir a"),
        ({"database_url": "postgresql://host/db"}, {"database_url": "postgresql://host/db"}, None),
        ({}, {"data_dir": "b"}, None),
        ({"database_url": "sqlite:///a/one.db"}, {"data_dir": "b", "database_url": "sqlite:///a/two.db"}, None),
    ],
)
def test_servers_share_neither_a_file_of_sqlite_nor_a_folder_of_its_artifacts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: dict[str, str], second: dict[str, str], what: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    (tmp_path / "link").symlink_to("a")
    servers = [Settings.model_validate({"data_dir": "a", **given}) for given in (first, second)]
    with only_server_of(servers[0]):
        refused = nullcontext() if what is None else pytest.raises(ConfigurationError, match=what)
        with refused, only_server_of(servers[1]):
            pass
    with only_server_of(servers[1]):
        pass
