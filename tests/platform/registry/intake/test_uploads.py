"""What an attacker uploads: refused with a reason, nothing left behind, and little memory taken meanwhile."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event
from tests.platform.registry.house import Files, House, OpenHouse, adapter_files

pytestmark = pytest.mark.sqlite

LIMIT = 8 << 20
# Of a process that holds one chunk and one file's header at a time.
MEMORY = 12 << 20
GOOD = adapter_files(1)
CONFIG, WEIGHTS = GOOD
ZEROS = bytes(64 << 20)
DEEP = b"[" * 200_000 + b"]" * 200_000


def tar(members: list[tuple[str | tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def link(kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo("link")
    info.type, info.linkname = kind, target
    return info


def zipped(members: Files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def endless_header() -> bytes:
    header = link(tarfile.XHDTYPE, "")
    header.size = 3 << 30
    return gzip.compress(header.tobuf() + bytes(4 << 20))


def weights(header: bytes, length: int | None = None) -> Files:
    return {**GOOD, WEIGHTS: struct.pack("<Q", len(header) if length is None else length) + header}


CORPUS: dict[str, Callable[[], Files]] = {
    "tar with ..": lambda: {"x.tar.gz": tar([*GOOD.items(), ("../../etc/passwd", b"x")])},
    "tar with an absolute path": lambda: {"x.tar.gz": tar([*GOOD.items(), ("/etc/passwd", b"x")])},
    "zip with ..": lambda: {"x.zip": zipped({**GOOD, "a/../../b": b"x"})},
    "zip with a backslash": lambda: {"x.zip": zipped({**GOOD, "..\\b": b"x"})},
    "a file name with ..": lambda: {**GOOD, "../x.json": b"x", "../../adapter_config.json": b"{}"},
    "symbolic link": lambda: {"x.tar.gz": tar([*GOOD.items(), (link(tarfile.SYMTYPE, "/etc/passwd"), b"")])},
    "hard link": lambda: {"x.tar.gz": tar([*GOOD.items(), (link(tarfile.LNKTYPE, CONFIG), b"")])},
    "tar bomb": lambda: {"x.tar.gz": tar([(CONFIG, GOOD[CONFIG]), (WEIGHTS, ZEROS)])},
    "tar bomb beside": lambda: {"x.tar.gz": tar([("zeros", ZEROS), *GOOD.items()])},
    "zip bomb": lambda: {"x.zip": zipped({CONFIG: GOOD[CONFIG], WEIGHTS: ZEROS})},
    "config bomb": lambda: {"x.zip": zipped({CONFIG: b" " * (6 << 20) + GOOD[CONFIG], WEIGHTS: GOOD[WEIGHTS]})},
    "endless tar header": lambda: {"x.tar.gz": endless_header()},
    "a header longer than the file": lambda: weights(b"{}", 1 << 62),
    "a header of a gigabyte": lambda: weights(b"{}", 1 << 30),
    "a header that is no JSON": lambda: weights(b" " * (4 << 20)),
    "a deep header": lambda: weights(b'{"x":' + DEEP + b"}"),
    "offsets beyond the file": lambda: weights(
        json.dumps({"t": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    ),
    "a deep config": lambda: {**GOOD, CONFIG: b'{"peft_type": "LORA", "target_modules": ' + DEEP + b"}"},
    "a config of numbers without end": lambda: {**GOOD, CONFIG: b'{"r": ' + b"9" * 500_000 + b"}"},
}
BODIES = {
    "deep": DEEP,
    "deep inside": b'{"source": "file:///x", "tags": ' + DEEP + b"}",
    "over the limit": b'{"source": "' + b"x" * (2 << 20) + b'"}',
}


@pytest.fixture
def backend() -> str:
    """What is refused before the database has its turn needs no second one."""
    return "sqlite"


@pytest.fixture
async def house(open_house: OpenHouse) -> House:
    house = await open_house(max_upload_bytes=LIMIT)
    await house.adapter("a", 0)
    return house


async def refused(house: House, **options: object) -> None:
    """Sends it and looks at all that must hold."""
    artifacts = sorted((house.data / "artifacts").rglob("*"))
    request = house.admin.build_request("POST", "/adapters/a/versions", **options)  # type: ignore[arg-type]
    tracemalloc.start()
    response = await house.admin.send(request)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 400 <= response.status_code < 500, response.text
    assert reason(response)
    assert peak < MEMORY, f"{peak >> 20} MiB"
    assert sorted((house.data / "artifacts").rglob("*")) == artifacts
    assert [path for path in (house.data / "incoming").rglob("*") if leftover(path)] == []


def reason(response: httpx.Response) -> str:
    problem = response.json()
    errors = [row["message"] for row in problem.get("rows", ()) if row["severity"] == "error"]
    return errors[0] if response.status_code == 422 else problem["detail"]


def leftover(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.parent.name != ".holds"


@pytest.mark.parametrize("name", CORPUS)
async def test_an_upload_is_refused_in_little_memory(house: House, name: str) -> None:
    files = CORPUS[name]()
    await refused(house, files=[("file", (file, data)) for file, data in files.items()])
    versions = (await house.admin.get("/adapters/a/versions")).json()["items"]
    assert [version["version"] for version in versions if version["state"] == "ready"] == [1]


@pytest.mark.parametrize("name", BODIES)
async def test_a_body_is_refused_in_little_memory(house: House, name: str) -> None:
    await refused(house, content=BODIES[name], headers={"Content-Type": "application/json"})


async def test_metadata_is_refused_in_little_memory(house: House) -> None:
    parts = [("file", (file, data)) for file, data in GOOD.items()]
    await refused(house, files=parts, data={"metadata": DEEP.decode()})


@pytest.mark.parametrize(
    ("name", "kind"), [("a.tar.xz", ".tar.xz"), ("A.TAR.BZ2", ".tar.bz2"), ("a.7z", "a 7z archive")]
)
async def test_an_archive_of_another_kind_is_no_missing_file(house: House, name: str, kind: str) -> None:
    starts = {".tar.xz": b"\xfd7zXZ\0", ".tar.bz2": b"BZh91AY", "a 7z archive": b"7z\xbc\xaf\x27\x1c"}
    content = starts[kind] + bytes(100)
    response = await house.admin.post("/adapters/a/versions", files=[("file", (name, content))])
    assert response.status_code == 400
    assert kind in response.json()["detail"]
    assert ".tar.gz, .tar and .zip archives are accepted" in response.json()["detail"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html><title>404</title>", "a web page"),
    ],
    ids=["empty", "pointer", "page"],
)
async def test_a_file_in_an_archives_place_is_told(house: House, content: bytes, words: str) -> None:
    for name in ("a.zip", "a.tar.gz", "a.tar"):
        response = await house.admin.post("/adapters/a/versions", files=[("file", (name, content))])
        assert response.status_code == 400
        assert words in response.json()["detail"]


async def test_an_upload_is_three_changes_and_five_looks(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Filed, claimed, concluded; and what is due (twice), the version, whether the job has ended (twice)."""
    monkeypatch.setattr(house.registry._runner, "_look_seconds", 3600.0)
    await house.adapter("b", 1)
    await house.follower.close()
    begun: Counter[str] = Counter()

    def count(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("BEGIN"):
            begun[statement] += 1

    event.listen(house.database.engine.sync_engine, "before_cursor_execute", count)
    assert (await house.upload("b", adapter_files(2))).status_code == 201
    assert begun == {"BEGIN IMMEDIATE": 3, "BEGIN DEFERRED": 5}
