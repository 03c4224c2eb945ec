"""Files of traces: a line of JSON for each request."""

from __future__ import annotations

import msgspec

from multiflora_engine.cache.block_hashes import HASH_BYTES
from multiflora_engine.cache.published_blocks import TAG_BYTES
from multiflora_engine.protocol.traced_request import TracedRequest


class BadTrace(ValueError):
    """A file is no trace; says in which line, and why."""


_decode = msgspec.json.Decoder(TracedRequest).decode


def read_trace(lines: list[bytes]) -> list[TracedRequest]:
    """Raises BadTrace."""
    return [_read(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def write_line(request: TracedRequest) -> bytes:
    return msgspec.json.encode(request) + b"\n"


def hashes_of(request: TracedRequest) -> list[bytes]:
    """Of its blocks, as a pool knows blocks: a trace has the first TAG_BYTES of each."""
    return [bytes.fromhex(block) * (HASH_BYTES // TAG_BYTES) for block in request.blocks]


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
