"""vLLM's load call and --lora-modules: one call for adapter, version and default."""

from __future__ import annotations

import asyncio

import pytest
from tests.platform.registry.fake_hub import COMMIT, FakeHub
from tests.platform.registry.house import adapter_files, base_model, rejected_files, write_folder

from multiflora_platform.registry.errors import (
    AdapterExists,
    AdapterNotFound,
    SourceIncomplete,
    SourceNotFound,
    SourceRefused,
    SourceUnreachable,
    VersionRejected,
)
from multiflora_platform.registry.schemas.fields import AdapterFields
from multiflora_platform.web.problems import InvalidRequest

pytestmark = pytest.mark.sqlite


@pytest.fixture
async def rooted(open_house, tmp_path):
    return await open_house(source_roots=[tmp_path])


def numbers(house, name):
    return sorted(house.registry.adapter(name).digests)


async def test_register_makes_adapter_version_and_default(rooted, tmp_path):
    folder = write_folder(tmp_path / "x", adapter_files(1))
    outcome = await rooted.registry.paths.register("sql", str(folder), "admin")
    assert outcome.status == 201
    assert rooted.registry.resolve("sql", None).version == 1
    with pytest.raises(AdapterExists, match="already been loaded"):
        await rooted.registry.paths.register("sql", str(folder), "admin")


async def test_a_repository_s_name_is_refused_with_one_that_would_do(rooted, tmp_path):
    folder = write_folder(tmp_path / "x", adapter_files(1))
    with pytest.raises(InvalidRequest, match=r"'org/sql' is not a valid name: .* Use 'org--sql'"):
        await rooted.registry.paths.register("org/sql", str(folder), "admin")
    assert rooted.registry.served() == []


async def test_load_inplace_adds_and_promotes(rooted, tmp_path):
    folder = write_folder(tmp_path / "x", adapter_files(1))
    await rooted.registry.paths.register("sql", str(folder), "admin", load_inplace=True)
    write_folder(folder, adapter_files(2))
    await rooted.registry.paths.register("sql", str(folder), "admin", load_inplace=True)
    assert rooted.registry.resolve("sql", None).version == 2
    write_folder(folder, adapter_files(1))
    outcome = await rooted.registry.paths.register("sql", str(folder), "admin", load_inplace=True)
    assert (outcome.status, rooted.registry.resolve("sql", None).version) == (200, 1)
    assert numbers(rooted, "sql") == [1, 2]


@pytest.mark.parametrize(
    ("path", "error"),
    [("/etc", SourceRefused), ("nothing", SourceNotFound), ("empty", SourceIncomplete), ("bad", VersionRejected)],
)
async def test_a_failed_register_leaves_the_name_free(rooted, tmp_path, path, error):
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "bad", rejected_files())
    with pytest.raises(error):
        await rooted.registry.paths.register("sql", str(tmp_path / path), "admin")
    assert rooted.registry.resolve("sql", None) is None
    write_folder(tmp_path / "good", adapter_files(1))
    await rooted.registry.paths.register("sql", str(tmp_path / "good"), "admin")


async def test_a_rejected_load_inplace_changes_nothing(rooted, tmp_path):
    folder = write_folder(tmp_path / "x", adapter_files(1))
    await rooted.registry.paths.register("sql", str(folder), "admin")
    write_folder(folder, rejected_files())
    with pytest.raises(VersionRejected) as caught:
        await rooted.registry.paths.register("sql", str(folder), "admin", load_inplace=True)
    assert any(row["severity"] == "error" for row in caught.value.rows)
    assert rooted.registry.resolve("sql", None).version == 1


async def test_bad_names_and_removal(rooted, tmp_path):
    folder = write_folder(tmp_path / "x", adapter_files(1))
    with pytest.raises(InvalidRequest):
        await rooted.registry.paths.register("../x", str(folder), "admin")
    await rooted.registry.paths.register("sql", str(folder), "admin")
    await rooted.registry.adapters.remove("sql", "admin")
    assert rooted.registry.resolve("sql", None) is None
    with pytest.raises(AdapterNotFound):
        await rooted.registry.adapters.remove("sql", "admin")


async def test_parallel_registers_of_one_name_make_one(rooted, tmp_path):
    folder = write_folder(tmp_path / "x", adapter_files(1))
    calls = (rooted.registry.paths.register("sql", str(folder), "admin") for _ in range(8))
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(result, AdapterExists) for result in results) == 7
    assert rooted.registry.resolve("sql", None).version == 1


@pytest.mark.parametrize("given", ["org/sql", "hf://org/sql", "org/sql@main"])
async def test_a_hub_s_adapter_is_fetched_by_a_job_and_served_when_the_call_ends(house, given):
    with FakeHub({"org/sql": adapter_files(1)}):
        assert (await house.registry.paths.register("sql", given, "admin")).status == 201
    assert house.registry.resolve("sql", None).version == 1
    version = (await house.admin.get("/adapters/sql/versions/1")).json()
    assert version["source"] == f"hf://org/sql@{COMMIT}"
    assert [job["state"] for job in (await house.admin.get("/jobs")).json()["items"]] == ["succeeded"]


async def test_load_inplace_from_the_hub_adds_and_promotes(house):
    with FakeHub({"org/sql": adapter_files(1)}) as hub:
        await house.registry.paths.register("sql", "org/sql", "admin")
        with pytest.raises(AdapterExists):
            await house.registry.paths.register("sql", "org/sql", "admin")
        hub.repositories["org/sql"], hub.commit = adapter_files(2), "f" * 40
        await house.registry.paths.register("sql", "org/sql", "admin", load_inplace=True)
    assert (numbers(house, "sql"), house.registry.resolve("sql", None).version) == ([1, 2], 2)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("org/none", SourceNotFound),
        ("org/half", SourceIncomplete),
        ("org/bad", VersionRejected),
        ("https://hub/org/sql", SourceRefused),
        ("ftp://hub/sql", InvalidRequest),
        ("hf://org", InvalidRequest),
        ("org/..", InvalidRequest),
        ("../sql", SourceRefused),
        ("o" * 300 + "/sql", SourceRefused),
    ],
)
async def test_a_hub_s_adapter_that_cannot_be_served_leaves_the_name_free(rooted, given, error):
    half = {"adapter_config.json": b"{}"}
    with FakeHub({"org/sql": adapter_files(1), "org/half": half, "org/bad": rejected_files()}):
        with pytest.raises(error):
            await rooted.registry.paths.register("sql", given, "admin")
        assert rooted.registry.snapshot.adapters == {}
        await rooted.registry.paths.register("sql", "org/sql", "admin")
    assert numbers(rooted, "sql") == [1]


async def test_a_hub_that_is_away_leaves_nothing(house):
    with pytest.raises(SourceUnreachable):
        await house.registry.paths.register("sql", "org/sql", "admin")
    assert (await house.admin.get("/events")).json()["items"] == []


async def test_a_folder_is_not_taken_for_a_hub_id(rooted, tmp_path, monkeypatch):
    write_folder(tmp_path / "org" / "sql", adapter_files(1))
    monkeypatch.chdir(tmp_path)
    with FakeHub({}) as hub:
        await rooted.registry.paths.register("sql", "org/sql", "admin")
        await rooted.registry.paths.register("same", f"file://{tmp_path}/org/sql", "admin")
        assert hub.asked == []
    assert rooted.registry.resolve("same", None).version == 1


async def seed(house, folder, **fields):
    await house.registry.paths.seed("sql", folder, AdapterFields(**{"description": "", "tags": (), **fields}))


async def test_an_adapter_from_the_hub_is_seeded_and_stays_when_the_hub_is_away(open_house, tmp_path):
    house = await open_house()
    with FakeHub({"org/sql": adapter_files(1)}) as hub:
        await seed(house, "hf://org/sql")
        assert house.registry.resolve("sql", None).version == 1
        await seed(house, "hf://org/sql")
        assert numbers(house, "sql") == [1]
        assert sum("/resolve/" in path for path, _ in hub.asked) == 2
        hub.repositories["org/sql"], hub.commit = adapter_files(2), "f" * 40
        await seed(house, "hf://org/sql")
        assert house.registry.resolve("sql", None).version == 2
        with pytest.raises(SourceNotFound):
            await seed(house, "hf://org/none")
    with pytest.raises(SourceUnreachable):
        await seed(house, "hf://org/sql")
    assert house.registry.resolve("sql", None).version == 2


async def test_seeding_again_changes_nothing(open_house, tmp_path):
    folder = write_folder(tmp_path / "x", adapter_files(1))
    house = await open_house()
    await seed(house, folder, description="Text to SQL", tags=["demo"], demo_prompt="How many?")
    entry = house.registry.adapter("sql")
    assert (entry.description, entry.tags, entry.demo_prompt) == ("Text to SQL", ("demo",), "How many?")
    before = (await house.admin.get("/events")).json()
    await house.close()
    house = await open_house()
    await seed(house, folder)
    assert (await house.admin.get("/events")).json() == before


async def test_changed_content_at_a_restart_is_promoted_and_people_s_moves_are_kept(open_house, tmp_path):
    folder = write_folder(tmp_path / "x", adapter_files(1))
    house = await open_house()
    await seed(house, folder)
    await house.upload("sql", adapter_files(7), params={"promote": "true"})
    await seed(house, folder)
    assert house.registry.resolve("sql", None).version == 2
    write_folder(folder, adapter_files(3))
    await seed(house, folder)
    assert house.registry.resolve("sql", None).version == 3
    write_folder(folder, adapter_files(1))
    await seed(house, folder)
    assert house.registry.resolve("sql", None).version == 1
    assert numbers(house, "sql") == [1, 2, 3]


async def test_another_base_gets_its_own_version(open_house, tmp_path):
    folder = write_folder(tmp_path / "x", adapter_files(1))
    house = await open_house()
    await seed(house, folder)
    await house.close()
    house = await open_house(base=base_model("c" * 64))
    await seed(house, folder)
    assert house.registry.resolve("sql", None).version == 2


async def test_seeding_what_cannot_be_served_says_why(house, tmp_path):
    with pytest.raises(VersionRejected, match="rejected"):
        await seed(house, write_folder(tmp_path / "bad", rejected_files()))
    with pytest.raises(SourceNotFound):
        await seed(house, tmp_path / "nothing")
    assert house.registry.served() == []


async def test_seeding_from_a_relative_path(house, tmp_path, monkeypatch):
    write_folder(tmp_path / "x", adapter_files(1))
    monkeypatch.chdir(tmp_path)
    await seed(house, "x")
    assert house.registry.resolve("sql", None).version == 1
