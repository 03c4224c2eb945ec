"""What a request used, as hashes and numbers: no text, no tokens and no names. Torch-free."""

from __future__ import annotations

import msgspec


class TracedRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of a trace; TraceRecorder fills it, or whatever makes up a trace."""

    # Of each of its full blocks, the prompt's first: 64 bits of the hash, hexadecimal. Equal ones are one block.
    blocks: list[str]
    # How many of these are the prompt's, and may be found in the cache; the others came to be while it was answered.
    prompt_blocks: int
    # Whose share of the cache they count towards; numbers in order of appearance.
    owner: int = 0
    # No client waited for it.
    background: bool = False
    # When it arrived, Unix seconds; any beginning does in a trace that is made up.
    at: float = 0.0
    # Of the prompt, and of the answer.
    prompt_tokens: int = 0
    output_tokens: int = 0
    # Numbers in order of appearance; 0: the base model.
    adapter: int = 0
