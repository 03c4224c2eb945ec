"""Batches of two servers on one database: with a bucket, or with one folder, either works on what the other began."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text
from tests.platform.batches.test_batches import COMPLETIONS, END, begin, line, results, until, upload
from tests.platform.gateway.house import House
from tests.platform.registry.fake_s3 import FakeS3

from multiflora_platform.batches import bucket_files, claims, result_parts, runner
from multiflora_platform.batches.service import BatchService, make_batch_service
from multiflora_platform.storage.tables import BatchRow, EventRow

LINES = 16
WORK = [line(f"r{number}", prompt="ab", max_tokens=3) for number in range(LINES)]


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    with FakeS3({"shared/of-others": b"x"}) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are soon safe, and parts of two lines full."""
    monkeypatch.setattr(runner, "SAVE_SECONDS", 0.02)
    for module in (result_parts, bucket_files):
        monkeypatch.setattr(module, "PART_BYTES", 1000)


def server(house: House, folder: Path, store: str | None = None) -> BatchService:
    """Another one with the house's database and engine, to which its routes lead from now on. Not started."""
    settings = house.services.settings.model_copy(update={"data_dir": folder, "artifact_store": store})
    house.app.state.batches = make_batch_service(house.turns, replace(house.services, settings=settings))
    return house.app.state.batches


async def row_of(house: House, batch_id: str) -> BatchRow:
    async with house.registry.database.read() as session:
        return await session.get_one(BatchRow, batch_id)


async def taken_over(house: House, one: BatchService, other: BatchService) -> tuple[dict[str, Any], int]:
    """The batch that ran at one until other, as after the end of its lease, took it; and the answers that one had
    computed by then. One goes on meanwhile, as a server does that stood still."""
    house.engine.pace = 0.02
    house.app.state.batches = one
    await one.start()
    begun = await begin(house, WORK)
    async with asyncio.timeout(20):
        while (await row_of(house, begun["id"])).completed < 4:  # noqa: ASYNC110 - rows send no signal
            await asyncio.sleep(0.01)
    house.app.state.batches = other
    await other.start()
    ended = await until(house, begun["id"], *END)
    await house.until(lambda: one.runner._working == other.runner._working == {})
    await one.close()
    return ended, len(house.engine.requests)


async def test_a_batch_is_taken_over_by_a_server_with_a_folder_of_its_own(
    house: House, s3: FakeS3, tmp_path: Path
) -> None:
    await house.app.state.batches.close()
    one, other = (server(house, tmp_path / name, "s3://shared/team") for name in ("one", "other"))
    ended, asked = await taken_over(house, one, other)
    assert (ended["status"], ended["request_counts"]) == (
        "completed",
        {"total": LINES, "completed": LINES, "failed": 0},
    )
    assert asked < 2 * LINES, "what was safe was not asked again"
    for service in (one, other):
        house.app.state.batches = service
        assert set(await results(house, ended["output_file_id"])) == {f"r{number}" for number in range(LINES)}
    s3.written.clear()
    await other.sweep()  # what the one that was too late had secured
    assert {key.split("/")[2] for key in s3.objects if key.startswith("shared/team/")} == {"files"}
    assert len([key for key in s3.puts if "/results/" in key]) > 4
    for name in ("one", "other"):
        assert not list((tmp_path / name / "files").iterdir()), "nothing stays in the folders"


async def test_a_batch_is_taken_over_by_a_server_on_the_same_folder(house: House, tmp_path: Path) -> None:
    await house.app.state.batches.close()
    one, other = server(house, tmp_path / "both"), server(house, tmp_path / "both")
    ended, _ = await taken_over(house, one, other)
    assert ended["request_counts"]["completed"] == LINES
    assert set(await results(house, ended["output_file_id"])) == {f"r{number}" for number in range(LINES)}


async def test_a_batch_that_another_server_cancels_ends(house: House, tmp_path: Path) -> None:
    """Its event comes from the outbox, which a house does not follow."""
    house.engine.hangs = True
    begun = await begin(house, WORK)
    await until(house, begun["id"], "in_progress")
    mine = house.app.state.batches
    server(house, tmp_path / "other")
    assert (await house.post(f"/v1/batches/{begun['id']}/cancel", {})).json()["status"] == "cancelling"
    assert mine.runner._working
    await mine.runner.follow([EventRow(type="batch.cancelling", payload={"batch": begun["id"]})])
    house.app.state.batches = mine
    assert (await until(house, begun["id"], *END))["status"] == "cancelled"


async def test_a_lost_lease_writes_nothing(house: House) -> None:
    house.engine.hangs = True
    begun = await begin(house, WORK)
    await until(house, begun["id"], "in_progress")
    await house.app.state.batches.close()
    database = house.registry.database

    def reached(_: str, digest: str | None) -> bool:
        return digest is not None

    first = await database.write("test", lambda change: claims.claim(change, "first", reached))
    assert first is not None
    assert await database.write("test", lambda change: claims.claim(change, "second", reached)) is None
    await database.write("test", claims.end_leases)
    second = await database.write("test", lambda change: claims.claim(change, "second", reached))
    assert second is not None
    for write in (
        lambda change: claims.finish(change, first, "completed", {}, 9, 0),
        lambda change: claims.save(change, first, first.saved, 9, 0),
        lambda change: claims.fail(change, first, []),
        lambda change: claims.release(change, first),
    ):
        with pytest.raises(claims.BatchLost):
            await database.write("test", write)
    row = await row_of(house, begun["id"])
    assert (row.status, row.completed, row.lease_owner) == ("in_progress", 0, "second")


async def test_a_batch_waits_for_a_server_that_can_read_its_input(house: House) -> None:
    house.engine.hangs = True
    begun = await begin(house, WORK)
    await house.app.state.batches.close()
    database = house.registry.database

    async def claim() -> claims.ClaimedBatch | None:
        return await database.write("test", lambda change: claims.claim(change, "x", lambda file_id, digest: False))

    assert await claim() is None
    async with database.engine.begin() as connection:
        past = {"past": datetime.now(UTC) - timedelta(seconds=1)}
        await connection.execute(text("UPDATE batches SET expires_at = :past"), past)
    late = await claim()
    assert late is not None
    assert late.id == begun["id"], "one that none can read fails when its window has ended"


async def test_what_the_bucket_has_of_a_file_is_checked(house: House, s3: FakeS3, tmp_path: Path) -> None:
    await house.app.state.batches.close()
    one = server(house, tmp_path / "one", "s3://shared")
    await one.start()
    file = (await upload(house, WORK[0])).json()
    content = f"/v1/files/{file['id']}/content"
    assert (await house.http.get(content)).text == WORK[0]
    (key,) = (key for key in s3.objects if file["id"] in key)
    s3.objects[key] = json.dumps({"custom_id": "forged"}).encode()
    assert (await house.http.get(content)).status_code == 500
    body = {"input_file_id": file["id"], "endpoint": COMPLETIONS, "completion_window": "24h"}
    begun = (await house.post("/v1/batches", body)).json()
    assert (await until(house, begun["id"], *END))["status"] == "failed"
    assert not house.engine.requests
    assert (await house.http.delete(f"/v1/files/{file['id']}")).json()["deleted"]
    assert key not in s3.objects
    await one.close()


async def test_a_bucket_that_is_away_is_told_and_waited_for(
    house: House, s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.app.state.batches.close()
    one = server(house, tmp_path / "one", "s3://shared")
    file = (await upload(house, WORK[0])).json()
    held = dict(s3.objects)
    s3.objects.clear()  # the bucket is gone
    refused = await upload(house, WORK[0])
    assert refused.status_code == 503
    assert "s3://shared/: does not exist" in refused.json()["error"]["message"]
    s3.objects.update(held)
    s3.forbidden = True
    monkeypatch.setattr(runner, "RETRY_SECONDS", 0.01)
    await one.start()
    body = {"input_file_id": file["id"], "endpoint": COMPLETIONS, "completion_window": "24h"}
    begun = (await house.post("/v1/batches", body)).json()
    await asyncio.sleep(0.1)
    assert (await row_of(house, begun["id"])).attempts <= 1, "waiting is no attempt"
    s3.forbidden = False
    assert (await until(house, begun["id"], *END))["status"] == "completed"
    await one.close()


async def test_bytes_that_no_row_names_go_after_a_day(house: House, s3: FakeS3, tmp_path: Path) -> None:
    await house.app.state.batches.close()
    one = server(house, tmp_path / "one", "s3://shared/team")
    file = (await upload(house, WORK[0])).json()
    await upload(house, WORK[1])
    s3.objects["shared/team/files/file-orphan/00"] = s3.objects["shared/team/results/file-orphan/0-00"] = b"x"
    s3.objects["shared/team/files/file-new/00"] = b"x"
    s3.written["shared/team/files/file-new/00"] = datetime.now(UTC)
    for key in [key for key in s3.written if file["id"] in key]:
        del s3.written[key]  # written long ago, and recorded
    await one.sweep()
    assert not [key for key in s3.objects if "orphan" in key]
    assert len([key for key in s3.objects if key.startswith("shared/team/files/")]) == 3


async def test_a_file_of_the_time_before_the_bucket_is_found(house: House, s3: FakeS3, tmp_path: Path) -> None:
    file = (await upload(house, WORK[0])).json()
    await house.app.state.batches.close()
    server(house, house.services.settings.data_dir, "s3://shared")
    assert (await house.http.get(f"/v1/files/{file['id']}/content")).text == WORK[0]
    server(house, tmp_path / "other", None)
    lost = await house.http.get(f"/v1/files/{file['id']}/content")
    assert (lost.status_code, lost.json()["error"]["code"]) == (503, "file_unavailable")
    async with house.registry.database.read() as session:
        assert not (await session.scalars(select(BatchRow))).all()
