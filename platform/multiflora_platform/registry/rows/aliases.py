"""The rules of an alias's row: what it may point to, how it moves, and who may move it. Every move ends in `move`.

Each function works inside a transaction that its caller began (for HTTP: changes/aliases.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from multiflora_platform.registry.errors import (
    AliasNotFound,
    AliasProtected,
    NothingToRollBack,
    VersionNotFound,
    VersionNotReady,
)
from multiflora_platform.registry.rows import adapters as catalog
from multiflora_platform.registry.rows import eval_gates
from multiflora_platform.registry.rows.superseded_rollouts import supersede_rollouts
from multiflora_platform.registry.snapshot.snapshot import DEFAULT, alias_etag
from multiflora_platform.registry.snapshot.traffic_split import lay_out
from multiflora_platform.storage.database import Change
from multiflora_platform.storage.tables import (
    LARGEST_NUMBER,
    AdapterRow,
    AliasMoveRow,
    AliasRow,
    RolloutRow,
    VersionRow,
)
from multiflora_platform.web.etags import Precondition
from multiflora_platform.web.names import check_alias
from multiflora_platform.web.problems import InvalidRequest


@dataclass(frozen=True)
class MovePrecondition(Precondition):
    """may_move_protected: the client is an admin, or the server itself moves the alias."""

    may_move_protected: bool = True

    def check_alias(self, alias: str, row: AliasRow | None, *etags: str) -> None:
        """row: None without such an alias. etags: of what else If-Match may name.

        Raises AliasProtected, PreconditionFailed, PreconditionRequired.
        """
        if row is not None and row.protected and not self.may_move_protected:
            raise AliasProtected(f"Alias {alias!r} is protected; only an admin key changes it.")
        present = () if row is None else (alias_etag(row.revision, row.protected), *etags)
        self.check(f"Alias {alias!r}", *present)


def shares_of(target: Mapping[str, Any]) -> dict[int, int]:
    """{"version": 3} -> {3: 100}; {"split": {"3": 90, "4": 10}} -> {3: 90, 4: 10}. Raises InvalidRequest."""
    if "split" not in target:
        return {target["version"]: 100}
    shares: dict[int, int] = {}
    for key, share in target["split"].items():
        if not (key.isascii() and key.isdecimal() and len(key) < 10 and key[0] != "0"):
            raise InvalidRequest(f"{key[:40]!r} is not a version's number.", pointer="/split")
        if isinstance(share, bool) or not isinstance(share, int) or share < 1:
            raise InvalidRequest("Each share is a positive whole number of percent.", pointer=f"/split/{key}")
        shares[int(key)] = share
    if sum(shares.values()) != 100:
        raise InvalidRequest(f"The shares sum to {sum(shares.values())}, not to 100.", pointer="/split")
    return shares


async def put(change: Change, name: str, alias: str, target: Mapping[str, Any], precondition: MovePrecondition) -> bool:
    """Point the alias at ready versions; True when it was created. A rollout of it is over.

    Raises EvalGate for a version that it did not serve yet, unless a rollback would bring it back. A rollout's
    candidate was only tried.
    """
    check_alias(alias)
    adapter = await catalog.require(change.session, name)
    row = await change.session.get(AliasRow, (adapter.id, alias))
    precondition.check_alias(alias, row)
    shares = shares_of(target)
    await require_ready(change, adapter, shares)
    ended = await supersede_rollouts(change, adapter, alias)
    settled = [] if row is None else [row.target, *([row.previous] if row.previous else [])]
    served = {number for one in settled for number in shares_of(one)} - {rollout.candidate for rollout in ended}
    await eval_gates.require_passed(
        change.session, adapter, alias, (number for number in shares if number not in served)
    )
    await _move_by_hand(change, adapter, alias, row, target, ended)
    return row is None


async def _move_by_hand(
    change: Change,
    adapter: AdapterRow,
    alias: str,
    row: AliasRow | None,
    target: Mapping[str, Any],
    ended: Iterable[RolloutRow],
) -> None:
    """A rollout's share is no settled target: who moves the alias during one leaves the stable version. ended: the
    rollouts that this move supersedes."""
    settled = None if row is None else row.previous if _is_step(row, target) else row.target
    for rollout in ended:
        settled = {"version": rollout.stable}
    moved = await move(change, adapter, alias, target)
    if settled != moved.target:
        moved.previous = settled


def _is_step(row: AliasRow, target: Mapping[str, Any]) -> bool:
    """Whether a move from its split only gives other shares to versions that it has, as a rollout by hand does: then
    the split was one of its steps, with its candidate in it, and not what was settled before."""
    return (
        "split" in row.target and row.previous is not None and shares_of(target).keys() <= shares_of(row.target).keys()
    )


async def move(change: Change, adapter: AdapterRow, alias: str, target: Mapping[str, Any]) -> AliasRow:
    """The move itself, or the making of it; versions and preconditions have been looked at. The layout follows the one
    before (snapshot/traffic_split.py). The caller decides where a rollback goes from now on."""
    row = await change.session.get(AliasRow, (adapter.id, alias))
    shares = shares_of(target)
    layout = lay_out(shares, row.layout if row else ())
    revision = await _remember(change, adapter, alias, dict(target))
    if row is None:
        row = AliasRow(
            adapter_id=adapter.id,
            name=alias,
            target=dict(target),
            layout=layout,
            revision=revision,
            updated_at=change.now,
        )
        change.session.add(row)
    else:
        row.target, row.layout, row.revision, row.updated_at = dict(target), layout, revision, change.now
    moved = {"alias": alias, "to": dict(target), "revision": revision}
    change.record("alias.moved", f"{adapter.name}@{alias}", adapter=adapter.name, **moved)
    return row


async def remove(change: Change, name: str, alias: str, precondition: MovePrecondition) -> None:
    adapter = await catalog.require(change.session, name)
    row = await require(change, adapter, alias)
    precondition.check_alias(alias, row)
    await supersede_rollouts(change, adapter, alias)
    await change.session.delete(row)
    revision = await _remember(change, adapter, alias, None)
    change.record("alias.deleted", f"{name}@{alias}", adapter=name, alias=alias, revision=revision)


async def roll_back(change: Change, name: str, alias: str, precondition: MovePrecondition) -> None:
    """To the last settled target; a second rollback changes nothing, and neither does one after a rollout that was
    rolled back or aborted: the alias is there already."""
    adapter = await catalog.require(change.session, name)
    row = await require(change, adapter, alias)
    precondition.check_alias(alias, row)
    if row.previous is None:
        raise NothingToRollBack(f"{name}@{alias} has had no other target.")
    await require_ready(change, adapter, shares_of(row.previous))
    await supersede_rollouts(change, adapter, alias)
    if row.target != row.previous:
        await move(change, adapter, alias, row.previous)


async def set_protected(change: Change, name: str, alias: str, protected: bool, precondition: MovePrecondition) -> None:
    adapter = await catalog.require(change.session, name)
    row = await require(change, adapter, alias)
    precondition.check_alias(alias, row)
    if row.protected != protected:
        row.protected = protected
        verb = "protected" if protected else "unprotected"
        change.record(f"alias.{verb}", f"{name}@{alias}", adapter=name, alias=alias)


async def history(session: AsyncSession, adapter_id: int, alias: str, before: int, limit: int) -> list[AliasMoveRow]:
    """Moves with ids below `before`, newest first."""
    query = select(AliasMoveRow).where(
        AliasMoveRow.adapter_id == adapter_id, AliasMoveRow.alias == alias, AliasMoveRow.id < before
    )
    return list(await session.scalars(query.order_by(AliasMoveRow.id.desc()).limit(limit)))


async def make_default(change: Change, adapter: AdapterRow, number: int) -> None:
    """`model=name` means this version from now on; nothing moves when it already does."""
    row = await change.session.get(AliasRow, (adapter.id, DEFAULT))
    if row is None or row.target != {"version": number}:
        await put(change, adapter.name, DEFAULT, {"version": number}, MovePrecondition())


async def require(change: Change, adapter: AdapterRow, alias: str) -> AliasRow:
    row = await change.session.get(AliasRow, (adapter.id, alias))
    if row is None:
        raise AliasNotFound(f"Adapter {adapter.name!r} has no alias {alias[:80]!r}.")
    return row


async def require_ready(change: Change, adapter: AdapterRow, numbers: Mapping[int, int]) -> None:
    possible = [number for number in numbers if 0 < number <= LARGEST_NUMBER]
    query = select(VersionRow.number, VersionRow.state).where(
        VersionRow.adapter_id == adapter.id, VersionRow.number.in_(possible)
    )
    states = dict((await change.session.execute(query)).all())
    for number in numbers:
        if number not in states:
            raise VersionNotFound(f"Adapter {adapter.name!r} has no version {number}.", pointer="/version")
        if states[number] != "ready":
            raise VersionNotReady(
                f"Version {number} of {adapter.name!r} is {states[number]}; only ready versions can be served.",
                pointer="/version",
            )


async def _remember(change: Change, adapter: AdapterRow, alias: str, target: dict[str, Any] | None) -> int:
    move = AliasMoveRow(adapter_id=adapter.id, alias=alias, target=target, actor=change.actor, at=change.now)
    change.session.add(move)
    await change.session.flush()
    return move.id
