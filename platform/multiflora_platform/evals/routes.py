"""/api/v1/adapters/{name}/evals and …/eval-runs: sets of prompts with checks, and what models answered to them.

For admins and the tenant that owns the adapter: prompts and answers are its own.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response
from msgspec.structs import replace
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import Request

from multiflora_platform.auth.dependencies import require_key
from multiflora_platform.auth.principals import Principal
from multiflora_platform.evals import runs, sets
from multiflora_platform.evals.checks import EvalCase, check_case, check_cases
from multiflora_platform.evals.comparing import compare, matrix_rows, newest_of_each
from multiflora_platform.evals.eval_problems import EvalNotFound
from multiflora_platform.evals.schemas import (
    EvalComparison,
    EvalMatrix,
    EvalResult,
    EvalRun,
    EvalRunBody,
    EvalRunPage,
    EvalRunResults,
    EvalRunState,
    EvalSet,
    EvalSetBody,
    EvalSetPage,
    EvalSetPatch,
)
from multiflora_platform.evals.service import evals_of
from multiflora_platform.evals.targets import target_of
from multiflora_platform.evals.verdicts import require_sound
from multiflora_platform.registry.routes.access import actor_for, changeable, readable, registry_of
from multiflora_platform.registry.routes.text_owners import refuse_others_texts
from multiflora_platform.registry.snapshot.snapshot import AdapterEntry
from multiflora_platform.storage.database import Change
from multiflora_platform.storage.tables import EvalRunRow, EvalSetVersionRow
from multiflora_platform.web.etags import Precondition
from multiflora_platform.web.json_bodies import read_json, schema
from multiflora_platform.web.pagination import LAST_ID, decode_token, encode_token, row_id
from multiflora_platform.web.request_headers import Absent, Unchanged
from multiflora_platform.web.resources import answers, compressed, rendered, resource

router = APIRouter(tags=["evals"])
AnyKey = Annotated[Principal, Depends(require_key)]
Limit = Annotated[int, Query(ge=1, le=1000)]
Version = Annotated[int | None, Query(ge=1, le=2**31 - 1)]
RunId = Annotated[int, Query(ge=1, le=LAST_ID)]
_MATRIX_RUNS = 1000
_SET = "/adapters/{name}/evals/{eval_name}"
_RUN = "/adapters/{name}/eval-runs/{run}"


@router.get("/adapters/{name}/evals", responses=answers(EvalSetPage))
async def list_evals(
    request: Request, principal: AnyKey, name: str, limit: Limit = 100, page_token: str | None = None
) -> Response:
    """By name."""
    entry = _own(request, principal, name)
    async with registry_of(request).database.read() as session:
        found = await sets.page(session, entry.id, decode_token(page_token) if page_token else "", limit + 1)
    token = encode_token(found[limit - 1].name) if len(found) > limit else None
    return await compressed(request, EvalSetPage(items=found[:limit], next_page_token=token))


@router.put(_SET, openapi_extra=schema(EvalSetBody), responses=answers(EvalSet, 200, 201))
async def put_eval(
    request: Request, principal: AnyKey, name: str, eval_name: str, expected: Unchanged, absent: Absent
) -> Response:
    """Makes or replaces it; other cases than before are another version of the set."""
    entry = changeable(request, principal, name)
    body = await read_json(request, EvalSetBody)
    check_cases(body.cases)
    for index, one in enumerate(body.cases):
        await require_sound(evals_of(request).process, one, f"/cases/{index}")
    precondition = Precondition(expected.if_match, absent.if_none_match)
    vet = refuse_others_texts(request, principal, entry)

    async def work(change: Change) -> bool:
        return await sets.put(change, entry.id, name, eval_name, body, precondition, vet)

    is_new = await registry_of(request).database.write(principal.actor, work)
    return await _set(request, principal, entry, eval_name, None, 201 if is_new else 200)


@router.post(_SET + "/cases", openapi_extra=schema(EvalCase), responses=answers(EvalSet, 200, 201))
async def add_eval_case(request: Request, principal: AnyKey, name: str, eval_name: str) -> Response:
    """One more prompt at the end of a set, which is made where there is none: another version of it."""
    entry = changeable(request, principal, name)
    case = await read_json(request, EvalCase)
    check_case(case, "")
    await require_sound(evals_of(request).process, case, "")
    vet = refuse_others_texts(request, principal, entry)

    async def work(change: Change) -> bool:
        return await sets.add_case(change, entry.id, name, eval_name, case, vet)

    is_new = await registry_of(request).database.write(principal.actor, work)
    return await _set(request, principal, entry, eval_name, None, 201 if is_new else 200)


@router.get(_SET, responses=answers(EvalSet))
async def get_eval(request: Request, principal: AnyKey, name: str, eval_name: str, version: Version = None) -> Response:
    """With its prompts; version: none: the newest."""
    return await _set(request, principal, _own(request, principal, name), eval_name, version)


@router.patch(_SET, openapi_extra=schema(EvalSetPatch), responses=answers(EvalSet))
async def change_eval(request: Request, principal: AnyKey, name: str, eval_name: str, expected: Unchanged) -> Response:
    """Its description, and what it gates."""
    entry = changeable(request, principal, name)
    fields = (await read_json(request, EvalSetPatch)).fields

    async def work(change: Change) -> None:
        await sets.amend(change, entry.id, name, eval_name, fields, expected)

    await registry_of(request).database.write(principal.actor, work)
    return await _set(request, principal, entry, eval_name, None)


@router.delete(_SET, status_code=204)
async def delete_eval(request: Request, principal: AnyKey, name: str, eval_name: str, expected: Unchanged) -> Response:
    """With its versions and all runs."""
    entry = changeable(request, principal, name)

    async def work(change: Change) -> list[int]:
        return await sets.remove(change, entry.id, name, eval_name, expected)

    for run in await registry_of(request).database.write(principal.actor, work):
        evals_of(request).runner.stopped(run)
    return Response(status_code=204)


@router.post(_SET + "/runs", status_code=202, openapi_extra=schema(EvalRunBody), responses=answers(EvalRun, 202))
async def run_eval(request: Request, principal: AnyKey, name: str, eval_name: str) -> Response:
    """Queued: it is asked in the background, behind every request that a client waits for."""
    entry = changeable(request, principal, name)
    body = await read_json(request, EvalRunBody)
    target = target_of(request.app.state.services, principal, entry, body)

    async def work(change: Change) -> EvalRun:
        row = await sets.require(change.session, entry.id, eval_name)
        asked = await sets.version(change.session, row, body.set_version)
        await runs.require_room(change.session, entry.id)
        run = await runs.create(change, name, row, asked, target, principal.tenant)
        return runs.view(run, name, row.name)

    queued = await registry_of(request).database.write(principal.actor, work)
    evals_of(request).runner.kick()
    return rendered(queued, 202, {"Location": f"/api/v1/adapters/{name}/eval-runs/{queued.id}"})


@router.get(_SET + "/matrix", responses=answers(EvalMatrix))
async def get_eval_matrix(
    request: Request, principal: AnyKey, name: str, eval_name: str, version: Version = None
) -> Response:
    """Versions by prompts: the newest completed run of each version, mix or other model."""
    entry = _own(request, principal, name)
    async with registry_of(request).database.read() as session:
        row = await sets.require(session, entry.id, eval_name)
        asked = await sets.version(session, row, version)
        wanted = {"set_id": row.id, "set_version": asked.number, "state": "completed"}
        found = await runs.page(session, entry.id, wanted, LAST_ID, _MATRIX_RUNS)
        columns = newest_of_each([_view(principal, entry, run, row.name) for run, _ in found])
        outcomes = await runs.outcomes(session, [run.id for run in columns])
    rows = matrix_rows(sets.cases_of(asked), [outcomes[run.id] for run in columns])
    matrix = EvalMatrix(eval=row.name, eval_version=asked.number, min_score=row.min_score, runs=columns, rows=rows)
    return await compressed(request, matrix)


@router.get("/adapters/{name}/eval-runs", responses=answers(EvalRunPage))
async def list_eval_runs(
    request: Request,
    principal: AnyKey,
    name: str,
    eval: str | None = None,
    version: Version = None,
    state: EvalRunState | None = None,
    limit: Limit = 100,
    page_token: str | None = None,
) -> Response:
    """Newest first: scores over time. eval: a set's name. version: of the adapter."""
    entry = _own(request, principal, name)
    wanted: dict[str, Any] = {"name": eval, "version": version, "state": state}
    before = row_id(page_token) if page_token else LAST_ID
    async with registry_of(request).database.read() as session:
        given = {column: value for column, value in wanted.items() if value is not None}
        found = await runs.page(session, entry.id, given, before, limit + 1)
    token = encode_token(str(found[limit - 1][0].id)) if len(found) > limit else None
    items = [_view(principal, entry, run, of_set) for run, of_set in found[:limit]]
    return await compressed(request, EvalRunPage(items=items, next_page_token=token))


@router.get("/adapters/{name}/eval-runs:compare", responses=answers(EvalComparison))
async def compare_eval_runs(request: Request, principal: AnyKey, name: str, left: RunId, right: RunId) -> Response:
    """Two runs, prompt by prompt: what the right one does better and worse."""
    entry = _own(request, principal, name)
    async with registry_of(request).database.read() as session:
        both = [await _with_results(session, principal, entry, run) for run in (left, right)]
    return await compressed(request, compare(*both))


@router.get(_RUN, responses=answers(EvalRunResults))
async def get_eval_run(request: Request, principal: AnyKey, name: str, run: str, results: bool = True) -> Response:
    """With what was answered so far, and what each check found. results: false: without, to see how far it is."""
    entry = _own(request, principal, name)
    number = runs.run_id(run)
    async with registry_of(request).database.read() as session:
        if results:
            shown, _, items = await _with_results(session, principal, entry, number)
        else:
            _, shown = await _run(session, principal, entry, number)
            items = []
    return await compressed(request, EvalRunResults(run=shown, items=items))


@router.post(_RUN + ":cancel", responses=answers(EvalRun))
async def cancel_eval_run(request: Request, principal: AnyKey, name: str, run: str) -> Response:
    """What has been answered stays; the rest is not asked."""
    entry = changeable(request, principal, name)
    number = runs.run_id(run)

    async def work(change: Change) -> EvalRun:
        row = await runs.cancel(change, entry.id, number)
        return _view(principal, entry, row, await runs.set_name(change.session, row))

    cancelled = await registry_of(request).database.write(principal.actor, work)
    evals_of(request).runner.stopped(number)
    return rendered(cancelled)


def _own(request: Request, principal: Principal, name: str) -> AdapterEntry:
    """Raises AdapterNotFound; EvalNotFound for tenants that only use the adapter."""
    entry = readable(request, principal, name)
    if not principal.is_admin and entry.owner != principal.tenant:
        raise EvalNotFound(f"The evals of {name!r} are for its owner.")
    return entry


async def _set(
    request: Request,
    principal: Principal,
    entry: AdapterEntry,
    eval_name: str,
    version: int | None,
    status: int = 200,
) -> Response:
    async with registry_of(request).database.read() as session:
        row = await sets.require(session, entry.id, eval_name)
        shown = await sets.view(session, entry.name, row, version)
    return resource(request, replace(shown, created_by=actor_for(principal, shown.created_by)), status)


async def _with_results(
    session: AsyncSession, principal: Principal, entry: AdapterEntry, run: int
) -> tuple[EvalRun, list[EvalCase], list[EvalResult]]:
    row, shown = await _run(session, principal, entry, run)
    asked = await session.get_one(EvalSetVersionRow, (row.set_id, row.set_version))
    cases = sets.cases_of(asked)
    return shown, cases, await runs.results(session, row, cases)


async def _run(
    session: AsyncSession, principal: Principal, entry: AdapterEntry, run: int
) -> tuple[EvalRunRow, EvalRun]:
    """Raises EvalRunNotFound."""
    row = await runs.require(session, entry.id, run)
    return row, _view(principal, entry, row, await runs.set_name(session, row))


def _view(principal: Principal, entry: AdapterEntry, run: EvalRunRow, of_set: str) -> EvalRun:
    shown = runs.view(run, entry.name, of_set)
    return replace(shown, created_by=actor_for(principal, shown.created_by))
