"""What-if: whether so many adapters and so much context fit on the device as it is configured."""

from __future__ import annotations

from collections.abc import Sequence

from multiflora_adapters.base_model import BaseModel
from multiflora_engine.protocol.messages import Ready
from multiflora_platform.insight.views.slots import CapacityAnswer

_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def capacity(
    base: BaseModel, ready: Ready, ranks: Sequence[int], context_tokens: int, sequences: int
) -> CapacityAnswer:
    """ranks: of adapters on all linears of the layers. context_tokens: of each of `sequences`."""
    per_rank = sum(site.in_features + site.out_features for site in base.sites.values() if site.layer is not None)
    item = _ITEM_BYTES.get(ready.dtype, 4)
    blocks = sequences * -(-context_tokens // ready.block_size)
    block_bytes = ready.kv_bytes // max(1, ready.num_blocks)
    fits_adapters = sum(ranks) <= ready.lora_rows and len(ranks) <= ready.lora_slots
    fits_context = blocks <= ready.num_blocks and context_tokens <= ready.max_model_len
    return CapacityAnswer(
        adapter_bytes=sum(ranks) * per_rank * item,
        rows_needed=sum(ranks),
        rows=ready.lora_rows,
        fits_adapters=fits_adapters,
        kv_bytes=blocks * block_bytes,
        blocks_needed=blocks,
        blocks=ready.num_blocks,
        fits_context=fits_context,
        advice=_advice(ready, ranks, context_tokens, fits_adapters, fits_context),
    )


def _advice(ready: Ready, ranks: Sequence[int], context: int, fits_adapters: bool, fits_context: bool) -> str:
    if fits_adapters and fits_context:
        return "All of it fits at the same time."
    parts = []
    if not fits_adapters:
        what = "slots" if len(ranks) > ready.lora_slots else "rank rows"
        parts.append(f"The adapters take turns, for want of {what}: raise --max-loras.")
    if context > ready.max_model_len:
        parts.append(f"One sequence holds {ready.max_model_len} tokens at most: raise --max-model-len.")
    elif not fits_context:
        parts.append("Some sequences wait or are computed again: raise --kv-cache-memory, or lower --max-num-seqs.")
    return " ".join(parts)
