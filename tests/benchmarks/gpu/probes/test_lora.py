"""The LoRA rows run as they are, interpreted at tiny shapes, and count what must be moved."""

from __future__ import annotations

import pytest
import torch

from gpu.probes.lora import Load, lora_probes

LAYER = ((24, (32, 16, 16)), (32, (24,)), (24, (32, 32)), (32, (24,)))

FOLDED = ["lora in rope", "lora, then rope", "lora in the activation", "lora share in the residual norm"]


@pytest.mark.parametrize("load", [Load(2, 1, 8), Load(2, 3, 20)])
def test_rows(load):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.inference_mode():
        probes = list(lora_probes(device, LAYER, [load], torch.float32, head_size=16))
        rows = [probe.make() for probe in probes]
        for row in rows:
            row.call()
    names = [row.name for row in rows]
    assert [probe.name for probe in probes] == [f"{name}, {load}" for name in names]
    assert names[:3] == ["lora shrink", "lora expand", "lora"]
    assert names[3:] == (FOLDED if load.tokens == 1 else [])
    shrink, expand, both = rows[:3]
    copies = int(both.shape.rpartition("x")[2])
    weights = load.adapters * load.rank * (24 * 3 + 32 + 24 * 2 + 32 + 64 + 24 + 64 + 24)
    values = load.adapters * load.tokens * (24 + 32 + 24 + 32 + 2 * (64 + 24 + 64 + 24))
    assert both.num_bytes == shrink.num_bytes + expand.num_bytes == 4 * copies * (weights + values)
    assert both.flops == shrink.flops + expand.flops == 2 * copies * load.tokens * weights
