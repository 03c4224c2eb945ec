"""A trace is read as it was written, and what is none is told by its line."""

from __future__ import annotations

import pytest

from multiflora_engine.protocol.traced_request import TracedRequest
from multiflora_engine.simulation.block_trace import BadTrace, read_trace, write_line


def test_there_and_back() -> None:
    trace = [TracedRequest(["0" * 16, "f" * 16], 1, owner=3), TracedRequest([], 0, background=True)]
    assert read_trace([write_line(request) for request in trace]) == trace


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "line 2"),
        (b"[]", "line 2"),
        (b'{"blocks": ["xx"], "prompt_blocks": 0}', "line 2"),
        (b'{"blocks": ["ab"], "prompt_blocks": 0}', "16 hexadecimal digits"),
        (b'{"blocks": ["abababababababab", "ABABABABABABABAB"], "prompt_blocks": 0}', "twice"),
        (b'{"blocks": ["abababababababab"], "prompt_blocks": 2}', "prompt_blocks"),
        (b'{"blocks": ["abababababababab"], "prompt_blocks": null}', "prompt_blocks"),
        (b'{"blocks": null, "prompt_blocks": 2}', "blocks"),
        (b"\xff", "line 2"),
    ],
)
def test_what_is_no_trace(line: bytes, reason: str) -> None:
    with pytest.raises(BadTrace, match="line 2") as raised:
        read_trace([b'{"blocks": [], "prompt_blocks": 0}\n', line])
    assert reason in str(raised.value)
