"""Files and batches over HTTP: every line answered once, through crashes, cancels and refusals; seen by their owner."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from starlette.responses import Response
from tests.platform.batches.conftest import open_batches
from tests.platform.gateway.house import OTHER, READY, TENANT, House

from multiflora_platform.auth.principals import Principal
from multiflora_platform.batches import claims, work
from multiflora_platform.gateway import in_process
from multiflora_platform.web.body_work import MOST_CONTAINERS, SMALL

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
END = ("completed", "failed", "cancelled", "expired")


def line(custom_id: str, url: str = COMPLETIONS, method: str = "POST", **body: Any) -> str:
    return json.dumps({"custom_id": custom_id, "method": method, "url": url, "body": {"model": "sql", **body}})


async def upload(house: House, content: str, purpose: str = "batch", key: str | None = None) -> Any:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    files = {"file": ("work.jsonl", content)}
    return await house.http.post("/v1/files", files=files, data={"purpose": purpose}, headers=headers)


async def begin(house: House, lines: list[str], endpoint: str = COMPLETIONS, key: str | None = None) -> Any:
    file = (await upload(house, "\n".join(lines), key=key)).json()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"input_file_id": file["id"], "endpoint": endpoint, "completion_window": "24h", "metadata": {"a": "b"}}
    response = await house.post("/v1/batches", body, **headers)
    assert response.status_code == 200, response.text
    return response.json()


async def until(house: House, batch_id: str, *states: str) -> Any:
    async with asyncio.timeout(20):
        while True:
            batch = (await house.http.get(f"/v1/batches/{batch_id}")).json()
            if batch["status"] in states:
                return batch
            await asyncio.sleep(0.01)


async def results(house: House, file_id: str | None) -> dict[str, Any]:
    if file_id is None:
        return {}
    response = await house.http.get(f"/v1/files/{file_id}/content")
    rows = [json.loads(text) for text in response.text.splitlines()]
    assert len({row["custom_id"] for row in rows}) == len(rows)
    return {row["custom_id"]: row for row in rows}


async def test_each_line_gets_its_answer(house: House) -> None:
    lines = [line(f"r{i}", prompt="ab", max_tokens=3) for i in range(9)] + [line("bad", prompt="ab", temperature=-1)]
    begun = await begin(house, lines)
    assert (begun["object"], begun["status"], begun["metadata"]) == ("batch", "validating", {"a": "b"})
    batch = await until(house, begun["id"], *END)
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 10, "completed": 9, "failed": 1}
    answers = await results(house, batch["output_file_id"])
    assert set(answers) == {f"r{i}" for i in range(9)}
    assert answers["r0"]["response"]["status_code"] == 200
    assert answers["r0"]["response"]["body"]["choices"][0]["text"] == "Hel"
    errors = await results(house, batch["error_file_id"])
    assert errors["bad"]["response"]["body"]["error"]["param"] == "temperature"
    assert all(request.priority >= 1000 and request.background for request in house.engine.requests)


async def test_a_client_cannot_make_its_request_one_of_the_background(house: House) -> None:
    for fields in ({"priority": 1000}, {"background": True}, {"is_background": True}):
        body = {"model": "base", "prompt": "ab", "max_tokens": 1, **fields}
        assert (await house.post("/v1/completions", body)).status_code == 200
    assert not any(request.background for request in house.engine.requests)


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/embeddings", {"input": "Hi"}),
        ("/v1/responses", {"input": "Hi"}),
    ],
)
async def test_every_endpoint(house: House, endpoint: str, body: dict[str, Any]) -> None:
    begun = await begin(house, [line("a", endpoint, **body)], endpoint)
    batch = await until(house, begun["id"], *END)
    response = (await results(house, batch["output_file_id"]))["a"]["response"]
    assert response["status_code"] == 200
    assert response["headers"]["x-multiflora-version"]
    assert response["body"]["usage"]


async def test_a_killed_server_goes_on_where_it_was(house: House) -> None:
    """The old runner just vanishes; a torn line of its last moment is written again."""
    house.engine.pace = 0.02
    begun = await begin(house, [line(f"r{i}", prompt="ab", max_tokens=3) for i in range(12)])
    await house.until(lambda: len(house.engine.requests) > 6)
    await house.app.state.batches.close()
    output = house.services.settings.data_dir / "files" / f"file-{begun['id'].removeprefix('batch_')}-output"
    done = output.read_bytes().count(b"\n")
    assert 0 < done < 12
    with output.open("ab") as file:
        file.write(b'{"id": "batch_req_torn", "custom_id": "r11", "resp')
    asked = len(house.engine.requests)
    await open_batches(house).start()
    batch = await until(house, begun["id"], *END)
    assert batch["request_counts"] == {"total": 12, "completed": 12, "failed": 0}
    assert set(await results(house, batch["output_file_id"])) == {f"r{i}" for i in range(12)}
    assert len(house.engine.requests) - asked == 12 - done


async def test_cancelling_keeps_what_is_answered(house: House) -> None:
    house.engine.pace = 0.02
    begun = await begin(house, [line(f"r{i}", prompt="ab", max_tokens=3) for i in range(40)])
    await house.until(lambda: len(house.engine.requests) > 6)
    cancelling = (await house.post(f"/v1/batches/{begun['id']}/cancel", {})).json()
    assert cancelling["status"] in ("cancelling", "cancelled")
    batch = await until(house, begun["id"], *END)
    assert batch["status"] == "cancelled"
    assert 0 < len(await results(house, batch["output_file_id"])) == batch["request_counts"]["completed"] < 40
    assert not house.services.active
    again = (await house.post(f"/v1/batches/{begun['id']}/cancel", {})).json()
    assert again["status"] == "cancelled"


async def test_an_engine_that_restarts_is_waited_for(house: House) -> None:
    ready, house.engine.ready = house.engine.ready, None
    begun = await begin(house, [line("a", prompt="ab", max_tokens=2)])
    await until(house, begun["id"], "in_progress")
    house.engine.ready = ready
    batch = await until(house, begun["id"], *END)
    assert batch["request_counts"]["completed"] == 1


async def test_the_window_ends(house: House) -> None:
    house.engine.hangs = True
    begun = await begin(house, [line("a", prompt="ab"), line("b", prompt="ab")])
    await until(house, begun["id"], "in_progress")
    await house.app.state.batches.close()
    async with house.registry.database.engine.begin() as connection:
        await connection.execute(text("UPDATE batches SET expires_at = :now"), {"now": datetime.now(UTC)})
    await open_batches(house).start()
    batch = await until(house, begun["id"], *END)
    assert (batch["status"], batch["request_counts"]["failed"]) == ("expired", 2)
    errors = await results(house, batch["error_file_id"])
    assert {row["error"]["code"] for row in errors.values()} == {"batch_expired"}


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (["not json"], "invalid_json_line"),
        (["[1]"], "invalid_json_line"),
        (['{"custom_id": "a", "method": "POST", "url": "/v1/completions"}'], "invalid_json_line"),
        ([line("a"), line("a")], "duplicate_custom_id"),
        ([line("")], "duplicate_custom_id"),
        ([line("a", method="GET")], "invalid_method"),
        ([line("a", CHAT)], "mismatched_url"),
        ([line("a", stream=True)], "invalid_body"),
        ([line("a", prompt="a" * (8 << 20))], "line_too_long"),
        ([line("a", filler=" " * SMALL, prompt=[[]] * MOST_CONTAINERS)], "invalid_json_line"),
        ([""], "empty_file"),
    ],
)
async def test_a_file_that_is_no_batch(house: House, lines: list[str], code: str) -> None:
    begun = await begin(house, [line("fine"), *lines] if lines != [""] else lines)
    batch = await until(house, begun["id"], *END)
    assert (batch["status"], batch["errors"]["data"][0]["code"]) == ("failed", code)
    assert not house.engine.requests


async def test_owners_alone_see_theirs(house: House) -> None:
    begun = await begin(house, [line("a", prompt="ab", max_tokens=2)], key=TENANT)
    batch = await until(house, begun["id"], *END)
    for key, status, count in ((TENANT, 200, 1), (OTHER, 404, 0)):
        headers = {"Authorization": f"Bearer {key}"}
        for path in (f"/v1/batches/{batch['id']}", f"/v1/files/{batch['output_file_id']}/content"):
            assert (await house.http.get(path, headers=headers)).status_code == status
        assert len((await house.http.get("/v1/batches", headers=headers)).json()["data"]) == count
        assert len((await house.http.get("/v1/files", headers=headers)).json()["data"]) == 2 * count
    body = {"input_file_id": batch["input_file_id"], "endpoint": COMPLETIONS, "completion_window": "24h"}
    refused = await house.post("/v1/batches", body, Authorization=f"Bearer {OTHER}")
    assert (refused.status_code, refused.json()["error"]["param"]) == (404, "input_file_id")
    assert house.engine.requests[0].cache_salt == "salt-of-acme"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/models"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"input_file_id": 5}, "input_file_id"),
        ({"metadata": {str(i): "x" for i in range(17)}}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata"),
    ],
)
async def test_refusals(house: House, fields: dict[str, Any], param: str) -> None:
    body = {"input_file_id": "file-x", "endpoint": CHAT, "completion_window": "24h", **fields}
    response = await house.post("/v1/batches", body)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(param)


async def test_files(house: House) -> None:
    made = [(await upload(house, "x" * size)).json() for size in (1, 2, 3)]
    assert [(file["object"], file["bytes"], file["purpose"]) for file in made] == [
        ("file", n, "batch") for n in (1, 2, 3)
    ]
    page = (await house.http.get("/v1/files", params={"limit": 2})).json()
    rest = (await house.http.get("/v1/files", params={"limit": 2, "after": page["last_id"]})).json()
    assert [file["bytes"] for file in page["data"] + rest["data"]] == [3, 2, 1]
    assert (page["has_more"], rest["has_more"]) == (True, False)
    page = (await house.http.get("/v1/files", params={"limit": 2, "order": "asc"})).json()
    rest = (await house.http.get("/v1/files", params={"order": "asc", "after": page["last_id"]})).json()
    assert [file["bytes"] for file in page["data"] + rest["data"]] == [1, 2, 3]
    assert (await house.http.get("/v1/files", params={"order": "up"})).json()["error"]["param"] == "order"
    path = f"/v1/files/{made[0]['id']}"
    assert (await house.http.get(f"{path}/content")).content == b"x"
    assert (await house.http.delete(path)).json() == {"id": made[0]["id"], "object": "file", "deleted": True}
    assert (await house.http.get(path)).status_code == 404
    assert not (house.services.settings.data_dir / "files" / made[0]["id"]).exists()
    assert (await upload(house, "x", "fine-tune")).json()["error"]["param"] == "purpose"
    assert (await house.http.post("/v1/files", data={"purpose": "batch"})).status_code == 400


async def test_a_file_in_use_stays(house: House) -> None:
    house.engine.hangs = True
    begun = await begin(house, [line("a", prompt="ab")])
    response = await house.http.delete(f"/v1/files/{begun['input_file_id']}")
    assert (response.status_code, response.json()["error"]["code"]) == (409, "file_in_use")


async def test_a_full_disk_is_waited_out_and_tears_no_line(
    house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(work, "RETRY_SECONDS", 0.01)
    free, refused = 1000, 0

    class Disk(io.FileIO):
        """Takes what there is room for, then nothing."""

        def write(self, data: Any, /) -> int:
            nonlocal free, refused
            part = data[:free]
            if not part:
                refused += 1
                raise OSError(errno.ENOSPC, "No space left on device")
            free -= len(part)
            return super().write(part)

    opened = Path.open

    def open_(path: Path, mode: str = "r", **options: Any) -> Any:
        return Disk(path, mode) if mode == "a+b" else opened(path, mode, **options)

    monkeypatch.setattr(Path, "open", open_)
    begun = await begin(house, [line(f"r{i}", prompt="ab", max_tokens=3) for i in range(9)])
    at_once = READY.max_num_seqs // 2
    await house.until(lambda: refused > 2 * at_once)  # so that one of the answers at least was tried three times
    waiting = (await house.http.get(f"/v1/batches/{begun['id']}")).json()
    assert (waiting["status"], waiting["request_counts"]["failed"]) == ("in_progress", 0)
    (output,) = (tmp_path / "files").glob("*-output")
    written = output.read_text(encoding="utf-8").splitlines()
    assert [json.loads(row)["response"]["status_code"] for row in written] == [200] * len(written)
    free = 1 << 20
    batch = await until(house, begun["id"], *END)
    assert (batch["status"], batch["request_counts"]["completed"]) == ("completed", 9)
    assert set(await results(house, batch["output_file_id"])) == {f"r{i}" for i in range(9)}
    assert len(house.engine.requests) == 9, "nothing was computed twice"


async def test_an_upload_that_fills_the_disk_is_told_so(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    response = await upload(house, line("a", prompt="ab"))
    assert response.status_code == 507
    assert "disk is full" in response.json()["error"]["message"]


async def test_trouble_with_one_batch_is_that_batchs(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file vanishes from the disk; the next batch runs, and so does one after the database was away."""
    file = (await upload(house, line("a", prompt="ab", max_tokens=2))).json()
    (house.services.settings.data_dir / "files" / file["id"]).unlink()
    body = {"input_file_id": file["id"], "endpoint": COMPLETIONS, "completion_window": "24h"}
    broken = (await house.post("/v1/batches", body)).json()
    assert (await until(house, broken["id"], *END))["errors"]["data"][0]["code"] == "internal_error"
    whole, calls = claims.is_any_free, []

    async def once_away(*arguments: Any) -> bool | None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("the database is away")
        return await whole(*arguments)

    monkeypatch.setattr(claims, "is_any_free", once_away)
    house.app.state.batches.runner._look_seconds = 0.01
    begun = await begin(house, [line("a", prompt="ab", max_tokens=2)])
    assert (await until(house, begun["id"], *END))["status"] == "completed"


async def test_a_batch_that_has_to_wait_holds_up_its_own_owner_alone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenant whose budget is spent for weeks: its second batch waits, others' batches do not."""
    answer = in_process.answer

    async def spent(app: Any, principal: Principal, url: str, body: dict[str, Any]) -> Response:
        if principal.tenant == "acme":
            return Response("{}", 429, {"retry-after": "1209600"})
        return await answer(app, principal, url, body)

    monkeypatch.setattr(in_process, "answer", spent)
    lines = [line(f"r{number}", prompt="ab", max_tokens=2) for number in range(20)]
    stuck = await begin(house, lines, key=TENANT)
    await until(house, stuck["id"], "in_progress")
    second = await begin(house, lines, key=TENANT)
    for key in (OTHER, None):
        begun = await begin(house, lines, key=key)
        assert (await until(house, begun["id"], *END))["request_counts"]["completed"] == 20
    assert [(await until(house, one["id"], "in_progress", "validating"))["status"] for one in (stuck, second)] == [
        "in_progress",
        "validating",
    ]


async def test_batches_of_different_owners_share_half_of_the_engines_places(house: House) -> None:
    house.engine.hangs = True
    lines = [line(f"r{number}", prompt="ab", max_tokens=2) for number in range(20)]
    begun = [await begin(house, lines, key=key) for key in (TENANT, OTHER, None)]
    for one in begun:
        await until(house, one["id"], "in_progress")
    await house.until(lambda: len(house.engine.requests) == READY.max_num_seqs // 2)
    await house.http.get("/v1/batches")
    assert len(house.engine.requests) == READY.max_num_seqs // 2
