"""Whether an adapter in a slot changes what the model says: asked before a version is promoted."""

from __future__ import annotations

import torch

from multiflora_engine.execution.dummy_batch import Dummy

_TOKENS = 16


@torch.inference_mode()
def probe_adapter(dummy: Dummy, slot: int) -> float:
    """max |logits of the adapter in `slot` - logits of the base| over a fixed prompt."""
    base, adapted = dummy.logits([None, slot], _TOKENS).float().chunk(2)
    return float((adapted - base).abs().max())
