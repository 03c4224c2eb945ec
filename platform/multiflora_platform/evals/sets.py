"""Sets as rows: made, versioned, found, removed. Knows neither runs' work nor HTTP.

Each function works inside a transaction or a read that its caller began.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from multiflora_platform.evals.checks import EvalCase, check_cases
from multiflora_platform.evals.eval_problems import EvalNotFound
from multiflora_platform.evals.schemas import EvalSet, EvalSetBody, EvalSetSummary
from multiflora_platform.storage.database import Change
from multiflora_platform.storage.tables import EvalResultRow, EvalRunRow, EvalSetRow, EvalSetVersionRow
from multiflora_platform.web.etags import UNCONDITIONAL, Precondition, etag_of
from multiflora_platform.web.names import check_alias, check_name
from multiflora_platform.web.problems import InvalidRequest

MAX_SETS = 200
_PATCHED = ("description", "min_score", "aliases")
# Raises what a prompt is refused for.
Vet = Callable[[EvalCase], None]


async def put(
    change: Change, adapter_id: int, adapter: str, name: str, body: EvalSetBody, precondition: Precondition, vet: Vet
) -> bool:
    """True when the set was made by this; other cases than the newest version has make a new one. vet: of each whose
    question that version has not."""
    check_name(name)
    row = await _find(change.session, adapter_id, name)
    precondition.check(f"Eval {name!r}", *([] if row is None else [_etag(row)]))
    present = [] if row is None else cases_of(await version(change.session, row, row.version))
    asked = [(one.prompt, one.messages) for one in present]
    for case in body.cases:
        if (case.prompt, case.messages) not in asked:
            vet(case)
    fields = {"description": body.description, "min_score": body.min_score, "aliases": _aliases(body.aliases)}
    cases = msgspec.to_builtins(body.cases)
    if row is None:
        await _require_room(change.session, adapter_id)
        row = EvalSetRow(adapter_id=adapter_id, name=name, version=0, created_by=change.actor, created_at=change.now)
        is_new = True
    else:
        is_new = False
    for field, value in fields.items():
        setattr(row, field, value)
    row.updated_at = change.now
    change.session.add(row)
    await change.session.flush()
    if is_new or present != body.cases:
        row.version += 1
        change.session.add(
            EvalSetVersionRow(
                set_id=row.id, number=row.version, cases=cases, created_by=change.actor, created_at=change.now
            )
        )
    verb = "created" if is_new else "changed"
    change.record(f"eval.{verb}", f"{adapter}/{name}", adapter=adapter, eval=name, eval_version=row.version)
    return is_new


async def add_case(change: Change, adapter_id: int, adapter: str, name: str, case: EvalCase, vet: Vet) -> bool:
    """At the end of the set, which is made where there is none: then True. A case that it has is not added again.
    Raises InvalidRequest, and what vet does."""
    row = await _find(change.session, adapter_id, name)
    if row is None:
        return await put(change, adapter_id, adapter, name, EvalSetBody(cases=[case]), UNCONDITIONAL, vet)
    present = cases_of(await version(change.session, row, row.version))
    if case in present:
        return False
    cases = [*present, case]
    check_cases(cases)
    body = EvalSetBody(cases=cases, description=row.description, min_score=row.min_score, aliases=row.aliases)
    return await put(change, adapter_id, adapter, name, body, UNCONDITIONAL, vet)


async def amend(
    change: Change, adapter_id: int, adapter: str, name: str, fields: dict[str, Any], precondition: Precondition
) -> None:
    """fields: of EvalSetPatch. Raises EvalNotFound."""
    row = await require(change.session, adapter_id, name)
    precondition.check(f"Eval {name!r}", _etag(row))
    if "aliases" in fields:
        fields = {**fields, "aliases": _aliases(fields["aliases"])}
    for field in _PATCHED:
        setattr(row, field, fields.get(field, getattr(row, field)))
    row.updated_at = change.now
    change.record("eval.changed", f"{adapter}/{name}", adapter=adapter, eval=name, **fields)


async def remove(change: Change, adapter_id: int, adapter: str, name: str, precondition: Precondition) -> list[int]:
    """With its versions and runs; the ids of those. Raises EvalNotFound."""
    row = await require(change.session, adapter_id, name)
    precondition.check(f"Eval {name!r}", _etag(row))
    runs = list(await change.session.scalars(select(EvalRunRow.id).where(EvalRunRow.set_id == row.id)))
    of_set = select(EvalRunRow.id).where(EvalRunRow.set_id == row.id)
    await change.session.execute(delete(EvalResultRow).where(EvalResultRow.run_id.in_(of_set)))
    await change.session.execute(delete(EvalRunRow).where(EvalRunRow.set_id == row.id))
    await change.session.execute(delete(EvalSetVersionRow).where(EvalSetVersionRow.set_id == row.id))
    await change.session.delete(row)
    change.record("eval.deleted", f"{adapter}/{name}", adapter=adapter, eval=name)
    return runs


async def require(session: AsyncSession, adapter_id: int, name: str) -> EvalSetRow:
    row = await _find(session, adapter_id, name)
    if row is None:
        raise EvalNotFound(f"There is no eval named {name[:80]!r}; its adapter's evals list those that there are.")
    return row


async def version(session: AsyncSession, row: EvalSetRow, number: int | None) -> EvalSetVersionRow:
    """number: None: the newest. Raises EvalNotFound."""
    found = await session.get(EvalSetVersionRow, (row.id, number or row.version))
    if found is None:
        raise EvalNotFound(f"Eval {row.name!r} has no version {number}; its newest is {row.version}.")
    return found


async def page(session: AsyncSession, adapter_id: int, after: str, limit: int) -> list[EvalSetSummary]:
    """By name, those behind `after`."""
    query = (
        select(EvalSetRow, EvalSetVersionRow)
        .join(
            EvalSetVersionRow,
            (EvalSetVersionRow.set_id == EvalSetRow.id) & (EvalSetVersionRow.number == EvalSetRow.version),
        )
        .where(EvalSetRow.adapter_id == adapter_id, EvalSetRow.name > after)
        .order_by(EvalSetRow.name)
        .limit(limit)
    )
    return [
        EvalSetSummary(
            name=row.name,
            version=row.version,
            description=row.description,
            min_score=row.min_score,
            aliases=row.aliases,
            cases=len(newest.cases),
            updated_at=row.updated_at.isoformat(),
        )
        for row, newest in await session.execute(query)
    ]


async def view(session: AsyncSession, adapter: str, row: EvalSetRow, number: int | None) -> EvalSet:
    shown = await version(session, row, number)
    return EvalSet(
        adapter=adapter,
        name=row.name,
        version=shown.number,
        latest_version=row.version,
        description=row.description,
        min_score=row.min_score,
        aliases=row.aliases,
        cases=cases_of(shown),
        created_by=shown.created_by,
        created_at=shown.created_at.isoformat(),
        updated_at=row.updated_at.isoformat(),
        etag=_etag(row) if shown.number == row.version else etag_of({"of": _etag(row), "version": shown.number}),
    )


def cases_of(row: EvalSetVersionRow) -> list[EvalCase]:
    return msgspec.convert(row.cases, list[EvalCase])


async def _find(session: AsyncSession, adapter_id: int, name: str) -> EvalSetRow | None:
    return await session.scalar(select(EvalSetRow).where(EvalSetRow.adapter_id == adapter_id, EvalSetRow.name == name))


async def _require_room(session: AsyncSession, adapter_id: int) -> None:
    names = list(await session.scalars(select(EvalSetRow.name).where(EvalSetRow.adapter_id == adapter_id)))
    if len(names) >= MAX_SETS:
        raise InvalidRequest(f"An adapter has at most {MAX_SETS} evals; delete one first.", pointer="")


def _aliases(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(check_alias(name) for name in names))


def _etag(row: EvalSetRow) -> str:
    """Of all that a client may set; the cases are told by their version."""
    fields = {field: getattr(row, field) for field in _PATCHED}
    return etag_of({"id": row.id, "version": row.version, **fields})
