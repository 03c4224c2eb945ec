"""Which way products in integers take: a function of what was measured, measured once on a machine."""

from __future__ import annotations

import pytest

from multiflora_kernels.linear import integer_choice, measuring
from multiflora_kernels.linear.integer import IntegerWay
from multiflora_kernels.linear.integer_choice import candidates, choose, integer_way, is_exact, measured_way
from multiflora_kernels.runtime import native
from multiflora_kernels.runtime.machine_cache import remembered
from multiflora_kernels.runtime.processor import Processor

PLAIN = Processor(frozenset({"avx2"}))
VNNI = Processor(frozenset({"avx2", "avx512_vnni"}))
FLOATS = {1: 1.0, 4: 2.0, 16: 4.0, 64: 16.0}


def test_libraries_are_candidates_where_they_can_be_fast():
    assert candidates(PLAIN, has_library=True) == ("words",)
    assert candidates(PLAIN, has_library=False) == ()
    assert candidates(VNNI, has_library=True) == ("words", "bytes")
    assert candidates(VNNI, has_library=False) == ("bytes",)


def test_the_fastest_is_taken_from_where_on_it_never_loses():
    word_way = {1: 0.5, 4: 3.0, 16: 3.0, 64: 10.0}
    assert choose(FLOATS, {"words": word_way}) == IntegerWay("words", 16)
    byte_way = {1: 0.5, 4: 1.0, 16: 3.0, 64: 9.0}
    assert choose(FLOATS, {"words": word_way, "bytes": byte_way}) == IntegerWay("bytes", 1)
    assert choose(FLOATS, {"words": {**word_way, 64: 15.0}}) is None
    assert choose(FLOATS, {}) is None


def test_it_is_measured_once_and_remembered(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured = []

    def measure():
        measured.append(len(measured))
        return IntegerWay("words", 8) if len(measured) == 1 else None

    monkeypatch.setattr(integer_choice, "measured_way", measure)
    fresh = integer_way.__wrapped__
    assert fresh() == fresh() == IntegerWay("words", 8)
    assert measured == [0]
    assert list(remembered(integer_choice.TABLE).values()) == [{"kind": "words", "least_rows": 8}]
    monkeypatch.setattr(measuring, "native_status", lambda: "another library")
    assert fresh() is fresh() is None
    assert measured == [0, 1]


@pytest.mark.parametrize("content", ["[]", "{", '{"key": 3}', "\xff"])
def test_a_table_that_something_else_wrote_does_no_harm(monkeypatch, tmp_path, content):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "multiflora").mkdir()
    (tmp_path / "multiflora" / f"{integer_choice.TABLE}.json").write_text(content, encoding="latin-1")
    monkeypatch.setattr(integer_choice, "measured_way", lambda: IntegerWay("words", 2))
    assert integer_way.__wrapped__() == IntegerWay("words", 2)


def test_what_is_measured_here_is_a_way_of_this_machine(monkeypatch):
    for module in (integer_choice, measuring):
        monkeypatch.setattr(module, "SIZE", 64)
    way = measured_way()
    assert way is None or (way.least_rows in measuring.ROWS and is_exact(way.kind))


def test_a_library_that_saturates_is_not_taken(monkeypatch):
    assert is_exact("bytes")
    assert native.library() is None or is_exact("words")
    product = integer_choice.integer_linear
    monkeypatch.setattr(
        integer_choice, "integer_linear", lambda x, w, bias, way: product(x, w, bias, way).clamp(-400, 400)
    )
    assert not is_exact("bytes")
