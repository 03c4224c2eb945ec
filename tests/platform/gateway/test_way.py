"""A chat completion's way through the gateway is a line: each file is entered once, and there are few of them.

A stream's pieces go round between the stream and its writer; what lies before them is not entered again.

What counts, of an answer that is written whole: the files under gateway/ in the order in which their functions are
called, from the route until the answer is written. A generator that goes on where it stopped is no new call. Giving
back what the request held (`Admission.close`) comes after the answer and goes up the same way, as leaving a `with`
does: it is not counted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

from tests.platform.gateway.house import House

import multiflora_platform.gateway

GATEWAY = str(Path(next(iter(multiflora_platform.gateway.__path__)))) + "/"
MOST_FILES = 16
MOST_FILES_OF_STREAM = 17


class Way:
    """A profiler's function: the files that were entered, one after the other."""

    def __init__(self) -> None:
        self.files: list[str] = []
        # Kept, so that no later frame gets the id of a generator's.
        self._known: set[FrameType] = set()
        self._giving_back = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event not in ("call", "return"):
            return
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        if path.endswith("contextlib.py") and name == "__exit__" and _gives_back(frame):
            self._giving_back += {"call": 1, "return": -1}[event]
        if event != "call" or frame in self._known or self._giving_back:
            return
        self._known.add(frame)
        if path.startswith(GATEWAY):
            file = path.removeprefix(GATEWAY)
            if not self.files or self.files[-1] != file:
                self.files.append(file)


def _gives_back(frame: FrameType) -> bool:
    """Whether this is the end of a request's ExitStack: called by its `close`, which the gateway calls."""
    close = frame.f_back
    return close is not None and close.f_code.co_name == "close" and close.f_code.co_filename.endswith("contextlib.py")


async def way_of(house: House, **more: Any) -> list[str]:
    body = {"model": "sql", "max_tokens": 3, "messages": [{"role": "user", "content": "hi"}], **more}
    await house.post("/v1/chat/completions", body)
    way = Way()
    sys.setprofile(way)
    try:
        answer = await house.post("/v1/chat/completions", body)
    finally:
        sys.setprofile(None)
    assert answer.status_code == 200
    assert way.files[0] == "routes/chat.py"
    assert "writing/chat.py" in way.files
    return way.files


def returns(files: list[str]) -> list[str]:
    return [file for place, file in enumerate(files) if file in files[:place]]


async def test_each_file_is_entered_once(house: House) -> None:
    files = await way_of(house)
    assert len(set(files)) <= MOST_FILES, files
    assert not returns(files), files


async def test_what_lies_before_a_streams_pieces_is_entered_once(house: House) -> None:
    files = await way_of(house, stream=True)
    assert len(set(files)) <= MOST_FILES_OF_STREAM, files
    before = files[: files.index("generation/respond.py") + 1]
    assert not returns(before), files
    assert not set(before) & set(files[len(before) :]), files
