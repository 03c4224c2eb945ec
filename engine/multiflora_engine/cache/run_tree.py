"""The prefix cache as a tree of runs: blocks joined where one has a single successor that was hit as often.

Made of a snapshot on a thread of its own: numpy lets go of the interpreter's lock while it sorts and gathers, and what
stands between these calls is short. Knows neither pool nor index.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from multiflora_engine.cache.cache_snapshot import CacheSnapshot

Positions = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run; its last block stands for it. Times are those of ROW."""

    block_id: int
    tag: int
    # The block_id of the run before it; None at the beginning.
    parent: int | None
    num_blocks: int
    # Of its last block.
    hits: int
    # Of its first block.
    published_at: float
    # Of its last block.
    used_at: float
    # A block of it is in a table or in a pin.
    is_referenced: bool


class RunTree:
    """Blocks are known by their positions among the published ones, in the order of their tags.

    pinned: tags of blocks with which a run ends, whatever follows.
    """

    def __init__(self, snapshot: CacheSnapshot, pinned: list[int]) -> None:
        self._block_ids = _published_once(snapshot)
        self._tags = snapshot.tags[self._block_ids]
        rows = snapshot.rows
        self._hits = rows["hits"][self._block_ids]
        self._published_at = rows["published_at"][self._block_ids]
        self._used_at = rows["used_at"][self._block_ids]
        self._parents, is_only_child = _find_parents(self._tags, rows["parent"][self._block_ids])
        joined = is_only_child & (self._hits == self._hits[self._parents])
        if pinned:
            joined &= ~np.isin(self._tags, np.array(pinned, np.uint64))[self._parents]
        self._heads, self._ranks = _find_heads(self._parents, joined)
        self._is_last = np.ones(len(joined), bool)
        self._is_last[self._parents[joined]] = False
        # Of a run's head: whether a block of the run is referenced.
        self._is_referenced = np.zeros(len(joined), bool)
        self._is_referenced[self._heads[snapshot.references[self._block_ids] > 0]] = True

    def longest(self, most: int) -> list[RunSummary]:
        """The longest runs, `most` of them with those before them; more only where those before the last are more."""
        lasts = np.flatnonzero(self._is_last)
        chosen = lasts[np.argsort(-self._ranks[lasts], kind="stable")[:most]]
        shown: dict[int, None] = {}
        for last in chosen.tolist():
            if len(shown) >= most:
                break
            while last not in shown:
                shown[last] = None
                # Of a beginning this is itself, or another block of its own run: neither leads anywhere new.
                last = int(self._parents[self._heads[last]])
                if not self._is_last[last]:
                    break
        return self._summaries(np.fromiter(shown, np.intp, len(shown)))

    def run(self, tag: int) -> Positions:
        """The run that ends with this block, its first block first; empty if none does."""
        position = int(np.searchsorted(self._tags, np.uint64(tag)))
        if position == len(self._tags) or self._tags[position] != tag or not self._is_last[position]:
            return np.empty(0, np.intp)
        members = np.flatnonzero(self._heads == self._heads[position])
        return members[np.argsort(self._ranks[members])]

    def with_all_behind(self, run: Positions) -> Positions:
        """The run's blocks in order, then all that continue it in any."""
        is_behind = np.zeros(len(self._tags), bool)
        is_behind[run] = True
        ancestors = self._parents
        # Each round asks an ancestor twice as far away, which by then knows of all those up to its own.
        for _ in range(len(self._tags).bit_length()):
            is_behind |= is_behind[ancestors]
            nearer, ancestors = ancestors, ancestors[ancestors]
            if np.array_equal(nearer, ancestors):
                break
        is_behind[run] = False
        return np.concatenate([run, np.flatnonzero(is_behind)])

    def blocks(self, positions: Positions) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.uint64]]:
        """Their ids and tags."""
        return self._block_ids[positions], self._tags[positions]

    def _summaries(self, lasts: Positions) -> list[RunSummary]:
        heads = self._heads[lasts]
        parents = self._parents[heads]
        columns = (
            self._block_ids[lasts],
            self._tags[lasts],
            np.where(parents == heads, -1, self._block_ids[parents]),
            self._ranks[lasts] + 1,
            self._hits[lasts],
            self._published_at[heads],
            self._used_at[lasts],
            self._is_referenced[heads],
        )
        return [
            RunSummary(block_id, tag, None if parent < 0 else parent, *others)
            for block_id, tag, parent, *others in zip(*(column.tolist() for column in columns), strict=True)
        ]


def _published_once(snapshot: CacheSnapshot) -> Positions:
    """The ids of published blocks by their tags, the later copy's where a content was copied twice."""
    published = np.flatnonzero(snapshot.rows["place"])
    # Stable, so that of one tag the highest id is the last, and its slice was the later one.
    published = published[np.argsort(snapshot.tags[published], kind="stable")]
    tags = snapshot.tags[published]
    is_latest = np.ones(len(tags), bool)
    is_latest[:-1] = tags[1:] != tags[:-1]
    return published[is_latest]


def _find_parents(
    tags: npt.NDArray[np.uint64], parent_tags: npt.NDArray[np.uint64]
) -> tuple[Positions, npt.NDArray[np.bool_]]:
    """The position of each block's parent, its own where the parent is not there; whether it is the only child."""
    parents = np.arange(len(tags))
    is_only_child = np.zeros(len(tags), bool)
    if len(tags):
        # In order, because a search for each in turn would miss the processor's caches every time.
        order = np.argsort(parent_tags)
        wanted = parent_tags[order]
        places = np.minimum(np.searchsorted(tags, wanted), len(tags) - 1)
        is_there = tags[places] == wanted
        parents[order[is_there]] = places[is_there]
        differs = np.concatenate([[True], wanted[1:] != wanted[:-1], [True]])
        is_only_child[order] = is_there & differs[1:] & differs[:-1]
    return parents, is_only_child


def _find_heads(parents: Positions, joined: npt.NDArray[np.bool_]) -> tuple[Positions, Positions]:
    """The first block of each block's run, and how many blocks of the run stand before it."""
    heads = np.where(joined, parents, np.arange(len(parents)))
    ranks = joined.astype(np.intp)
    searching = np.flatnonzero(joined)
    # Each round doubles how far a block sees; a run of 8,192 blocks takes 13.
    for _ in range(len(parents).bit_length()):
        seen = heads[searching]
        ranks[searching], heads[searching] = ranks[searching] + ranks[seen], heads[seen]
        searching = searching[joined[heads[searching]]]
        if not len(searching):
            break
    return heads, ranks
