"""Stop strings across pieces: nothing of one is ever sent, everything else is, whatever the pieces are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiflora_platform.text.stop_strings import StopStrings

PIECES = st.lists(st.text("ab\n", max_size=4), max_size=12)
STOPS = st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=3)


def run(stop: list[str], pieces: list[str], include: bool = False) -> tuple[list[str], str | None]:
    scanner, out = StopStrings(stop, include), []
    for piece in pieces:
        text, found = scanner.push(piece)
        out.append(text)
        if found is not None:
            return out, found
    return [*out, scanner.flush()], None


def first_end(stop: list[str], text: str) -> int | None:
    ends = [text.find(s) + len(s) for s in stop if s in text]
    return min(ends, default=None)


@given(stop=STOPS, pieces=st.lists(st.text("ab\n", min_size=1, max_size=1), max_size=25))
def test_characters_one_by_one(stop: list[str], pieces: list[str]) -> None:
    text = "".join(pieces)
    out, found = run(stop, pieces)
    end = first_end(stop, text)
    assert (found is None) == (end is None)
    if end is None:
        assert "".join(out) == text
    else:
        assert found in stop
        assert "".join(out) == text[: end - len(found)]


@given(stop=STOPS, pieces=PIECES)
def test_no_part_of_the_found_stop_string_is_sent(stop: list[str], pieces: list[str]) -> None:
    out, found = run(stop, pieces)
    sent, text = "".join(out), "".join(pieces)
    assert text.startswith(sent)
    if found is None:
        assert sent == text
        assert not any(s in text for s in stop)
    else:
        assert text[len(sent) :].startswith(found)


@given(stop=STOPS, pieces=PIECES)
def test_included_stop_strings_end_the_text(stop: list[str], pieces: list[str]) -> None:
    out, found = run(stop, pieces, include=True)
    without, same = run(stop, pieces)
    assert found == same
    assert "".join(out) == "".join(without) + (found or "")


def test_text_that_begins_no_stop_string_goes_out_at_once() -> None:
    scanner = StopStrings(["STOP"])
    assert [scanner.push(piece)[0] for piece in ("abc", "S", "T", "x", "ST")] == ["abc", "", "", "STx", ""]
    assert scanner.flush() == "ST"


def test_below_min_tokens_a_match_does_not_count() -> None:
    scanner = StopStrings(["aa"])
    assert scanner.push("aa", armed=False) == ("a", None)
    assert scanner.push("b") == ("ab", None)
    assert scanner.push("aa") == ("", "aa")


@pytest.mark.parametrize("stop", [["b", "ab"], ["ab", "b"]])
def test_of_two_that_end_together_the_longer_counts(stop: list[str]) -> None:
    assert run(stop, ["xab"]) == (["x"], "ab")
