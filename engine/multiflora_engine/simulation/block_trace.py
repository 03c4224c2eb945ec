"""A trace: for each request the blocks that it used, as hashes. No text, no tokens, and no names."""

from __future__ import annotations

import msgspec


class TracedRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a trace, in JSON."""

    # Of each of its full blocks, the prompt's first: 64 bits of the hash, hexadecimal. Equal ones are one block.
    blocks: list[str]
    # How many of these are the prompt's, and may be found in the cache; the others came to be while it was answered.
    prompt_blocks: int
    # Whose share of the cache they count towards; numbers in order of appearance.
    owner: int = 0
    # No client waited for it.
    background: bool = False


class BadTrace(ValueError):
    """A file is no trace; says in which line, and why."""


_decode = msgspec.json.Decoder(TracedRequest).decode


def read_trace(lines: list[bytes]) -> list[TracedRequest]:
    """Raises BadTrace."""
    return [_read(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def write_line(request: TracedRequest) -> bytes:
    return msgspec.json.encode(request) + b"\n"


def _read(number: int, line: bytes) -> TracedRequest:
    try:
        request = _decode(line)
        hashes = {bytes.fromhex(block) for block in request.blocks}
    except ValueError as error:
        raise BadTrace(f"line {number}: {error}") from None
    if any(len(hash) != 8 for hash in hashes):
        raise BadTrace(f"line {number}: each block is 16 hexadecimal digits")
    if len(hashes) != len(request.blocks):
        raise BadTrace(f"line {number}: a block occurs twice in one request")
    if not 0 <= request.prompt_blocks <= len(request.blocks):
        raise BadTrace(f"line {number}: prompt_blocks is from 0 to the number of blocks")
    return request
