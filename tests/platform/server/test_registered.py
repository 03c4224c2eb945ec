"""What a starting server says about adapters that do not go with its settings."""

from __future__ import annotations

import asyncio

import pytest
from tests.platform.registry.fake_hub import FakeHub
from tests.platform.registry.house import adapter_files, opening

from multiflora_platform.base_models.opening import open_model
from multiflora_platform.cli.main import main
from multiflora_platform.demo import DemoAdapter
from multiflora_platform.server.registered import require_ranks, seed
from multiflora_platform.settings import ConfigurationError, Settings


async def test_registered_adapters_above_the_rank_limit_are_named_with_the_setting(tmp_path):
    async with opening(tmp_path / "data", None) as open_house:
        house = await open_house(max_rank=16)
        await house.adapter("small", 1)
        await house.adapter("wide")
        await house.adapter("wider")
        await house.upload("wide", adapter_files(2, rank=12))
        await house.upload("wider", adapter_files(3, rank=4))
        await house.upload("wider", adapter_files(4, rank=16))
        snapshot = house.registry.snapshot
    require_ranks(snapshot, 16)
    with pytest.raises(ConfigurationError) as refused:
        require_ranks(snapshot, 8)
    assert str(refused.value).splitlines() == [
        "--max-lora-rank 8 is less than the ranks of registered adapters: wide@1 (rank 12), wider@2 (rank 16)",
        "start with --max-lora-rank 16; to lower it, archive these versions first",
    ]


async def test_an_archived_version_does_not_keep_the_limit_up(tmp_path):
    async with opening(tmp_path / "data", None) as open_house:
        house = await open_house(max_rank=16)
        await house.adapter("a", 1)
        await house.upload("a", adapter_files(2, rank=16))
        assert (await house.admin.delete("/adapters/a/versions/2")).status_code < 300
        require_ranks(house.registry.snapshot, 8)


async def test_a_limit_below_the_demo_is_told_with_the_adapter_and_the_setting(tmp_path):
    for name, content in adapter_files(1, rank=8).items():
        (tmp_path / name).write_bytes(content)
    async with opening(tmp_path / "data", None) as open_house:
        house = await open_house(max_rank=4)
        with pytest.raises(ConfigurationError, match=r"the demo's adapter sql: Rank 8 .* --max-lora-rank 8"):
            await seed(house.registry, Settings(), (DemoAdapter("sql", tmp_path, "", (), None),))


def test_serve_ends_with_exit_code_3_before_its_engine_starts(tmp_path, capsys):
    demo = open_model(Settings(data_dir=tmp_path))

    async def register() -> None:
        async with opening(tmp_path) as open_house:
            house = await open_house(base=demo.base, max_rank=64)
            await seed(house.registry, Settings(data_dir=tmp_path), demo.demo[:1])

    asyncio.run(register())
    assert main(["serve", "--data-dir", str(tmp_path), "--port", "0", "--max-lora-rank", "8"]) == 3
    printed = capsys.readouterr().err
    assert "--max-lora-rank 8 is less than the ranks of registered adapters: sql@1 (rank 16)" in printed
    assert "Loading weights" not in printed


async def test_an_adapter_that_is_known_is_served_while_its_hub_is_away(tmp_path, caplog):
    settings = Settings(lora_modules=("sql=org/sql",))
    async with opening(tmp_path / "data", None) as open_house:
        house = await open_house()
        with pytest.raises(ConfigurationError, match=r"--lora-modules sql: .*org/sql"):
            await seed(house.registry, settings, ())
        with FakeHub({"org/sql": adapter_files(1)}):
            await seed(house.registry, settings, ())
        await seed(house.registry, settings, ())
        assert house.registry.resolve("sql", None).version == 1
        assert "as it was at an earlier start" in caplog.text
