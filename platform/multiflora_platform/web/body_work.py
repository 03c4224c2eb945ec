"""How much making Python objects of a JSON body is, counted before any is made: msgspec reads a whole body without
letting go of the interpreter lock, and so holds up every other request meanwhile.

numpy counts without that lock. Knows neither what a body means nor how a refusal is written.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SMALL = 1 << 18
"""Bytes: any body so small is read in a few milliseconds."""
MOST_VALUES = 1 << 18
MOST_CONTAINERS = 1 << 15
MOST_ESCAPES = 1 << 19
MOST_DEPTH = 128
"""Objects and lists inside each other; readers of schemas and tools call themselves for each."""


def too_much(content: bytes, most_values: int = MOST_VALUES) -> str | None:
    """Why a body is not read, in words for the client; None where it can be. Texts may be as long as they like.

    content: supposed to be JSON; of anything else some number comes out. most_values: numbers, texts, keys.
    """
    characters, backslashes = _read(content)
    if backslashes.size > MOST_ESCAPES:
        return f"more than {MOST_ESCAPES:,} escaped characters; send text as UTF-8, or less of it"
    outside = ~_inside_texts(characters, backslashes)
    containers = np.count_nonzero(((characters == ord("{")) | (characters == ord("["))) & outside)
    if containers > MOST_CONTAINERS:
        return f"more than {MOST_CONTAINERS:,} objects and lists; send less at once"
    values = np.count_nonzero(((characters == ord(",")) | (characters == ord(":"))) & outside) + containers
    return f"more than {most_values:,} values; send less at once" if values > most_values else None


def too_deep(content: bytes) -> bool:
    """Whether objects and lists stand inside more than MOST_DEPTH others."""
    if content.count(b"[") + content.count(b"{") <= MOST_DEPTH:
        return False
    characters, backslashes = _read(content)
    brackets = np.isin(characters, np.frombuffer(b"[]{}", np.uint8)) & ~_inside_texts(characters, backslashes)
    opens = np.isin(characters[brackets], np.frombuffer(b"[{", np.uint8))
    depths = np.cumsum(np.where(opens, 1, -1))
    return bool(depths.size) and int(depths.max()) > MOST_DEPTH


def _read(content: bytes) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.intp]]:
    """The characters, and where the backslashes are."""
    characters = np.frombuffer(content, np.uint8)
    return characters, np.flatnonzero(characters == ord("\\"))


def _inside_texts(characters: npt.NDArray[np.uint8], backslashes: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    """Which characters stand between two quotes: as many quotes before them are odd. An escaped one is none."""
    quotes = characters == ord('"')
    quotes[_escaped(backslashes, len(characters))] = False
    inside: npt.NDArray[np.bool_] = np.logical_xor.accumulate(quotes)
    return inside


def _escaped(backslashes: npt.NDArray[np.intp], length: int) -> npt.NDArray[np.intp]:
    """The places behind an odd number of backslashes in a row."""
    if not backslashes.size:
        return backslashes
    ends = np.flatnonzero(np.diff(backslashes) != 1)
    first, last = backslashes[np.r_[0, ends + 1]], backslashes[np.r_[ends, backslashes.size - 1]]
    behind: npt.NDArray[np.intp] = last[(last - first) % 2 == 0] + 1
    return np.extract(behind < length, behind)
