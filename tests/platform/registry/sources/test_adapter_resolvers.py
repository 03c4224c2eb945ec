"""Which adapters a resolver has, and by which names."""

from __future__ import annotations

import pytest
from tests.platform.registry.fake_hub import COMMIT, FakeHub
from tests.platform.registry.house import adapter_files, write_folder

from multiflora_platform.registry.sources.adapter_resolvers import FolderResolver, HubResolver, parse_resolvers
from multiflora_platform.registry.sources.resolver import Sources

SOURCES = Sources((), 1 << 20)


def test_settings_become_resolvers_in_their_order(tmp_path):
    hub, folder = parse_resolvers(["hf:org/*", f"dir:{tmp_path}"], SOURCES)
    assert isinstance(hub, HubResolver)
    assert hub.organisation == "org"
    assert folder == FolderResolver(tmp_path)


@pytest.mark.parametrize("model", ["../x", "a/b", "/etc", ".", "..", ".x", "", "a\0b", "a" * 65, "~"])
def test_what_is_no_name_never_reaches_a_folder(tmp_path, model):
    assert FolderResolver(tmp_path).registered(model) is None


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("org/sql", "org--sql"),
        ("sql", "org--sql"),
        ("org--sql", "org--sql"),
        ("other/sql", None),
        ("org/", None),
        ("org/../x", None),
        ("org/a/b", None),
        ("x" * 60, None),
    ],
)
def test_a_repository_s_names_are_one_adapter(model, name):
    assert HubResolver("org", SOURCES).registered(model) == name


def test_a_folder_is_found_and_other_files_are_another_stamp(tmp_path):
    resolver = FolderResolver(tmp_path / "root")
    write_folder(tmp_path / "root" / "sql", adapter_files(1))
    (tmp_path / "root" / "empty").mkdir()
    found = resolver.look("sql")
    assert found is not None
    assert found.source == str(tmp_path / "root" / "sql")
    assert resolver.look("sql") == found
    write_folder(tmp_path / "root" / "sql", adapter_files(2, rank=4))
    assert resolver.look("sql") != found
    assert resolver.look("empty") is None
    assert resolver.look("none") is None


def test_links_do_not_lead_out_of_the_folder(tmp_path):
    write_folder(tmp_path / "outside", adapter_files(1))
    root = write_folder(tmp_path / "root", {})
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "loop").symlink_to(root / "loop")
    write_folder(root / "sql", adapter_files(1))
    (root / "in").symlink_to(root / "sql")
    resolver = FolderResolver(root)
    assert resolver.look("out") is None
    assert resolver.look("loop") is None
    assert resolver.look("in") is not None


def test_a_repository_is_found_pinned(tmp_path):
    resolver = HubResolver("org", SOURCES)
    with FakeHub({"org/sql": adapter_files(1), "org/model": {"config.json": b"{}"}}):
        found = resolver.look("org--sql")
        assert found is not None
        assert (found.source, found.stamp) == ("hf://org/sql", f"hf://org/sql@{COMMIT}")
        assert resolver.look("org--none") is None
        assert resolver.look("org--model") is None
