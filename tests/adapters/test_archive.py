"""Archives: three formats in, two files out; everything unsafe is refused whole, before anything is written."""

from __future__ import annotations

import contextlib
import gzip
import io
import stat
import struct
import tarfile
import tracemalloc
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multiflora_adapters.archive import MAX_MEMBERS, ArchiveError, unpack_adapter

LIMIT = 1 << 20
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
GOOD = {CONFIG: b'{"r": 4}', WEIGHTS: b"weights" * 100}


def tar(members, mode="w:gz"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for member in members:
            info, content = member if isinstance(member, tuple) else (member, b"")
            if isinstance(info, str):
                info = tarfile.TarInfo(info)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


def zipped(members, compression=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def unpack(content, folder, limit=LIMIT):
    (folder / "upload").write_bytes(content)
    target = folder / "out"
    target.mkdir(exist_ok=True)
    try:
        unpack_adapter(folder / "upload", target, limit)
    except ArchiveError:
        assert list(target.iterdir()) == [], "a refused archive leaves nothing behind"
        raise
    return {path.name: path.read_bytes() for path in target.iterdir()}


@pytest.mark.parametrize("prefix", ["", "./", "adapter/", "./adapter/"])
@pytest.mark.parametrize("pack", [tar, lambda m: tar(m, "w"), zipped, lambda m: zipped(m, zipfile.ZIP_STORED)])
def test_formats_and_one_folder(pack, prefix, tmp_path):
    """A model card comes along, other files do not."""
    extra = [(prefix + name, b"x") for name in ("README.md", "notes.txt", "checkpoint-5/adapter_config.json")]
    content = pack([(prefix + name, data) for name, data in GOOD.items()] + extra)
    assert unpack(content, tmp_path) == {**GOOD, "README.md": b"x"}


def test_folder_entries_and_long_names(tmp_path):
    members = [special("adapter", tarfile.DIRTYPE), ("adapter/" + "n" * 150, b"x")]
    assert unpack(tar(members + [("adapter/" + n, d) for n, d in GOOD.items()]), tmp_path) == GOOD


def test_folder_entries_in_zip(tmp_path):
    assert unpack(zipped([("adapter/", b""), *(("adapter/" + n, d) for n, d in GOOD.items())]), tmp_path) == GOOD


def test_what_is_already_there_stays(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / CONFIG).write_bytes(b"mine")
    (tmp_path / "upload").write_bytes(tar(GOOD.items()))
    with pytest.raises(FileExistsError):
        unpack_adapter(tmp_path / "upload", tmp_path / "out", LIMIT)
    assert (tmp_path / "out" / CONFIG).read_bytes() == b"mine"


UNSAFE_NAMES = ["../x", "a/../../x", "/etc/x", "..", "a\\..\\x", "C:/x", "C:x", "x\ny", "a\x1bb", "n" * 2000]


@pytest.mark.parametrize("name", UNSAFE_NAMES)
@pytest.mark.parametrize("pack", [tar, zipped])
def test_unsafe_names(pack, name, tmp_path):
    with pytest.raises(ArchiveError):
        unpack(pack([*GOOD.items(), (name, b"x")]), tmp_path)


def test_a_zip_member_whose_name_begins_with_a_null_is_refused(tmp_path):
    packed = zipped(list(GOOD.items()))
    at = packed.rindex(b"adapter_config.json")
    with pytest.raises(ArchiveError):
        unpack(packed[:at] + b"\0" + packed[at + 1 :], tmp_path)


@pytest.mark.parametrize(
    "member",
    [
        special("link", tarfile.SYMTYPE, "/etc/passwd"),
        special("adapter_model.bin", tarfile.LNKTYPE, CONFIG),
        special("device", tarfile.CHRTYPE),
        special("block", tarfile.BLKTYPE),
        special("pipe", tarfile.FIFOTYPE),
        special("sparse", tarfile.GNUTYPE_SPARSE),
    ],
)
def test_special_tar_members(member, tmp_path):
    with pytest.raises(ArchiveError):
        unpack(tar([*GOOD.items(), member]), tmp_path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_special_zip_members(kind, tmp_path):
    info = zipfile.ZipInfo("x")
    info.external_attr = (kind | 0o777) << 16
    with pytest.raises(ArchiveError, match=r"link|regular"):
        unpack(zipped([*GOOD.items(), (info, b"/etc/passwd")]), tmp_path)


@pytest.mark.parametrize("twin", [CONFIG, "Adapter_Config.JSON", "./adapter_config.json", "ａdapter_config.json"])
def test_duplicates(twin, tmp_path):
    with pytest.raises(ArchiveError, match="same name"):
        unpack(tar([*GOOD.items(), (twin, b"{}")]), tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicates_in_zip(tmp_path):
    with pytest.raises(ArchiveError, match="same name"):
        unpack(zipped([*GOOD.items(), (CONFIG, b"{}")]), tmp_path)


@pytest.mark.parametrize("missing", GOOD)
def test_missing_file(missing, tmp_path):
    with pytest.raises(ArchiveError, match=missing):
        unpack(tar([(n, d) for n, d in GOOD.items() if n != missing]), tmp_path)


def test_pickle_is_named(tmp_path):
    with pytest.raises(ArchiveError, match="pickle"):
        unpack(tar([(CONFIG, b"{}"), ("adapter_model.bin", b"x")]), tmp_path)


def test_two_adapters(tmp_path):
    members = [(f"{folder}/{name}", data) for folder in "ab" for name, data in GOOD.items()]
    with pytest.raises(ArchiveError, match="more than one"):
        unpack(zipped(members), tmp_path)


@pytest.mark.parametrize("deep", ["a/b/"])
def test_adapter_too_deep(deep, tmp_path):
    with pytest.raises(ArchiveError, match="lacks"):
        unpack(tar([(deep + n, d) for n, d in GOOD.items()]), tmp_path)


@pytest.mark.parametrize("pack", [tar, zipped])
def test_bombs_are_not_inflated(pack, tmp_path):
    bomb = pack([*GOOD.items(), ("zeros", bytes(40 << 20))])
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    with pytest.raises(ArchiveError, match="more than"):
        unpack(bomb, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_endless_header(tmp_path):
    """A pax header that claims gigabytes is read into memory by careless readers."""
    header = special("x", tarfile.XHDTYPE)
    header.size = 3 << 30
    bomb = gzip.compress(header.tobuf() + bytes(4 << 20))
    tracemalloc.start()
    with pytest.raises(ArchiveError):
        unpack(bomb, tmp_path, limit=8 << 30)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_too_many_members(tmp_path):
    members = [*GOOD.items(), *((f"f{i}", b"") for i in range(MAX_MEMBERS))]
    for pack in (tar, zipped):
        with pytest.raises(ArchiveError, match="members"):
            unpack(pack(members), tmp_path)


def test_zip_that_lies_about_sizes(tmp_path):
    content = bytearray(zipped(GOOD.items()))
    position = content.rindex(b"PK\x01\x02")
    struct.pack_into("<L", content, position + 24, 10)
    with pytest.raises(ArchiveError):
        unpack(bytes(content), tmp_path)


def test_zip64_and_encrypted(tmp_path):
    content = zipped(GOOD.items())
    end = content.rindex(b"PK\x05\x06")
    with pytest.raises(ArchiveError, match="64"):
        unpack(content[:end] + b"PK\x06\x07" + bytes(16) + content[end:], tmp_path)
    flagged = bytearray(content)
    struct.pack_into("<H", flagged, flagged.index(b"PK\x01\x02") + 8, 1)
    with pytest.raises(ArchiveError, match="encrypted"):
        unpack(bytes(flagged), tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"PK\3\4junk", b"\x1f\x8b", b"\x1f\x8bjunkjunk", b"BZh9", b"\xfd7zXZ", b"x" * 2000, bytes(2000)],
)
def test_what_is_no_archive(content, tmp_path):
    with pytest.raises(ArchiveError):
        unpack(content, tmp_path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), packed=st.sampled_from([tar(GOOD.items()), tar(GOOD.items(), "w"), zipped(GOOD.items())]))
def test_damage_is_an_archive_error_or_harmless(data, packed, tmp_path):
    content = bytearray(packed)
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    for path in (tmp_path / "out").glob("*"):
        path.unlink()
    with contextlib.suppress(ArchiveError):
        assert set(unpack(bytes(content[:cut]), tmp_path)) == set(GOOD)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xfd7zXZ\0", ".tar.xz"),
        (b"BZh91AY", ".tar.bz2"),
        (b"\x28\xb5\x2f\xfd\0\0", ".tar.zst"),
        (b"7z\xbc\xaf", "7z"),
    ],
)
def test_an_archive_of_another_kind_is_told_by_name(content, words, tmp_path):
    (tmp_path / "upload").write_bytes(content)
    with pytest.raises(ArchiveError, match=words):
        unpack_adapter(tmp_path / "upload", tmp_path, 1 << 20)
