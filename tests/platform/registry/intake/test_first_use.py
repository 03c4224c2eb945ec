"""Adapters that are registered at their first use."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import pytest
from tests.platform.registry.fake_hub import FakeHub
from tests.platform.registry.house import adapter_files, rejected_files, write_folder

from multiflora_platform.auth.policies import Policy
from multiflora_platform.auth.principals import Principal
from multiflora_platform.registry.errors import SourceIncomplete, SourceRefused, SourceUnreachable, VersionRejected
from multiflora_platform.registry.sources.adapter_resolvers import FolderResolver

ADMIN = Principal("admin", None, "k")
ACME = Principal("tenant", "acme", "k", 1)


@pytest.fixture
def root(tmp_path):
    return write_folder(tmp_path / "adapters", {})


@pytest.fixture
async def resolving(open_house, root):
    return await open_house(adapter_resolvers=[f"dir:{root}"], resolver_tenants=["acme"])


@pytest.fixture
def looks(monkeypatch):
    """The names that were looked for on the disk."""
    seen, look = [], FolderResolver.look
    monkeypatch.setattr(FolderResolver, "look", lambda self, name: (seen.append(name), look(self, name))[1])
    return seen


async def bring(house, model, principal=ADMIN, seconds=30.0):
    await house.registry.first_use.bring(model, principal, seconds)
    return house.registry.resolve(model, None)


async def test_fifty_first_requests_make_one_version(resolving, root, looks):
    write_folder(root / "sql", adapter_files(1))
    found = await asyncio.gather(*(bring(resolving, "sql") for _ in range(50)))
    assert {one.version for one in found} == {1}
    assert looks == ["sql"]
    listed = (await resolving.admin.get("/adapters/sql/versions")).json()["items"]
    assert [version["version"] for version in listed] == [1]
    assert [adapter.name for adapter in resolving.registry.served()] == ["sql"]
    audit = (await resolving.admin.get("/audit")).json()["items"]
    assert {row["actor"] for row in audit if row["target"].startswith("sql")} == {"resolver"}


async def test_what_is_known_is_not_looked_for_again(resolving, root, looks):
    write_folder(root / "sql", adapter_files(1))
    await bring(resolving, "sql@default")
    write_folder(root / "sql", adapter_files(2))
    await bring(resolving, "sql")
    assert await bring(resolving, "sql@7") is None
    assert looks == ["sql"]
    assert resolving.registry.resolve("sql", None).version == 1


async def test_a_name_that_no_resolver_has_is_looked_for_once_in_a_while(resolving, root, looks):
    for _ in range(20):
        assert await bring(resolving, "none") is None
    assert looks == ["none"]
    assert resolving.registry.snapshot.adapters == {}
    assert (await resolving.admin.get("/events")).json()["items"] == []


@pytest.mark.parametrize("model", ["../outside", "/etc", "a/../b", ".", "", "out"])
async def test_nothing_outside_the_folder_is_registered(resolving, root, looks, model):
    write_folder(root.parent / "outside", adapter_files(1))
    (root / "out").symlink_to(root.parent / "outside")
    assert await bring(resolving, model) is None
    assert looks == (["out"] if model == "out" else [])


async def test_a_file_that_leads_out_is_refused(resolving, root):
    write_folder(root.parent / "outside", adapter_files(1))
    (root / "sql").mkdir()
    for name in adapter_files():
        (root / "sql" / name).symlink_to(root.parent / "outside" / name)
    with pytest.raises(SourceRefused):
        await bring(resolving, "sql")
    assert resolving.registry.snapshot.adapters == {}


async def test_a_file_that_cannot_be_opened_is_told(resolving, root, monkeypatch):
    write_folder(root / "sql", {"adapter_config.json": b"{}"})
    monkeypatch.chdir(root / "sql")  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("adapter_model.safetensors")
        with pytest.raises(SourceIncomplete, match=r"adapter_model\.safetensors cannot be read"):
            await bring(resolving, "sql")
    assert resolving.registry.snapshot.adapters == {}


async def test_a_broken_adapter_is_validated_once_and_again_when_its_folder_changes(resolving, root, monkeypatch):
    first_use = resolving.registry.first_use
    (resolver,) = first_use._resolvers
    monkeypatch.setattr(first_use, "_resolvers", [replace(resolver, recheck_seconds=600.0)])
    validated = []
    register = resolving.registry.first_use._paths.register
    monkeypatch.setattr(
        resolving.registry.first_use._paths, "register", lambda *a, **o: (validated.append(a[0]), register(*a, **o))[1]
    )
    write_folder(root / "sql", rejected_files())
    outcomes = await asyncio.gather(*(bring(resolving, "sql") for _ in range(20)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {VersionRejected}
    assert any(row["severity"] == "error" for row in outcomes[0].rows)
    monkeypatch.setattr(first_use, "_resolvers", [replace(resolver, recheck_seconds=0.0)])
    with pytest.raises(VersionRejected):  # looked at again, and as it was
        await bring(resolving, "sql")
    assert validated == ["sql"]
    write_folder(root / "sql", adapter_files(1))
    assert (await bring(resolving, "sql")).version == 1
    assert len(validated) == 2


async def test_a_remembered_failure_keeps_no_frames_of_those_who_met_it(resolving, root):
    write_folder(root / "sql", rejected_files())
    frames = []
    for _ in range(4):
        with pytest.raises(VersionRejected) as raised:
            await bring(resolving, "sql")
        frames.append(len(raised.traceback))
    assert len(set(frames)) == 1


async def test_only_listed_tenants_cause_it_and_only_for_what_they_may_use(resolving, root, looks):
    write_folder(root / "sql", adapter_files(1))
    assert await bring(resolving, "sql", Principal("tenant", "other", "k", 2)) is None
    narrow = Principal("tenant", "acme", "k", 1, policy=Policy(allowed_adapters=("chat*",)))
    assert await bring(resolving, "sql", narrow) is None
    assert looks == []
    assert (await bring(resolving, "sql", ACME)).version == 1


async def test_who_waits_too_long_leaves_the_others_theirs(resolving, root):
    write_folder(root / "sql", adapter_files(1))
    patient = asyncio.create_task(bring(resolving, "sql"))
    with pytest.raises(TimeoutError):
        await bring(resolving, "sql", seconds=0.0)
    assert (await patient).version == 1


async def test_an_organisation_of_the_hub(open_house):
    house = await open_house(adapter_resolvers=["hf:org/*"])
    with FakeHub({"org/sql": adapter_files(1), "other/sql": adapter_files(2)}) as hub:
        found = await asyncio.gather(*(bring(house, model) for model in ("org/sql", "sql", "org--sql") * 5))
        assert {(one.name, one.version) for one in found} == {("org--sql", 1)}
        assert house.registry.resolve("org/sql@1", None).version == 1
        asked = len(hub.asked)
        for _ in range(5):
            assert await bring(house, "org/none") is None
            assert await bring(house, "other/sql") is None
        assert len(hub.asked) == asked + 1
    with pytest.raises(SourceUnreachable):
        await bring(house, "org/away")


async def test_without_resolvers_there_is_no_first_use(house):
    assert house.registry.first_use is None
    assert house.registry.resolve("sql", None) is None
