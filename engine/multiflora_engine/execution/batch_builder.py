"""A step's arrays on the device, as the model reads them. Knows no model and no sequences."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from multiflora_engine.core.forward_batch import ForwardBatch
from multiflora_engine.core.transfers import Staging
from multiflora_engine.execution.step_arrays import AdapterRuns, StepArrays
from multiflora_engine.execution.token_feedback import TokenFeedback
from multiflora_kernels.attention.plan import QueryBounds
from multiflora_kernels.lora.batched_lora import LoraSegments


def forward_batch(arrays: StepArrays, staging: Staging, feedback: TokenFeedback) -> ForwardBatch:
    """The step's input on the device; its memory is its own."""
    host: list[npt.NDArray[Any]] = [
        arrays.token_ids,
        arrays.positions,
        arrays.kv_slots,
        arrays.query_starts,
        arrays.context_lens,
        arrays.block_tables,
    ]
    if arrays.token_sources is not None:
        host.append(arrays.token_sources)
    if arrays.logit_rows is not None:
        host.append(arrays.logit_rows)
    token_ids, positions, kv_slots, query_starts, context_lens, block_tables, *rest = staging.upload(host)
    if arrays.token_sources is not None:
        token_ids = feedback.resolve(token_ids, rest.pop(0))
    lora = lora_segments(arrays.adapter_runs, staging) if arrays.adapter_runs.slots else None
    return ForwardBatch(
        token_ids=token_ids,
        positions=positions,
        kv_slots=kv_slots,
        query_starts=query_starts,
        context_lens=context_lens,
        block_tables=block_tables,
        query_bounds=QueryBounds(arrays.shortest, arrays.longest),
        lora=lora,
        logit_rows=rest.pop() if rest else None,
        logit_lora=lora if arrays.logit_rows is None else lora_segments(arrays.logit_runs, staging),
    )


def lora_segments(runs: AdapterRuns, staging: Staging) -> LoraSegments | None:
    """None when every row is the base's."""
    if not runs.slots:
        return None
    return LoraSegments.build(runs.starts, runs.slots, None if staging.is_on_host else staging.upload_one)
