"""Warming up the sampler runs every op that a request can ask for."""

from __future__ import annotations

import pytest
import torch

from multiflora_engine.execution.warm_up import warm_up_sampler
from multiflora_engine.sampling.device_counts import DeviceCounts
from multiflora_engine.sampling.sampler import Sampler
from multiflora_kernels.sampling import ops as sampling

OPS = {"greedy", "sample", "logprobs", "apply_bitmask_", "bias_"}
BY_HOST, BY_DEVICE = {"penalize_"}, {"penalize_seen_", "count_seen_"}


@pytest.mark.parametrize(("counts", "penalties"), [(None, BY_HOST), (DeviceCounts(3, 40), BY_DEVICE)])
def test_every_op_runs_once(counts: DeviceCounts | None, penalties: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ran: set[str] = set()

    def noting(name: str, op):
        def call(*arguments):
            ran.add(name)
            return op(*arguments)

        return call

    for name in OPS | penalties:
        monkeypatch.setattr(sampling, name, noting(name, getattr(sampling, name)))
    logits = torch.randn(5, 40)
    before = logits.clone()
    warm_up_sampler(Sampler(40, counts=counts), logits)
    assert ran == OPS | penalties
    assert torch.equal(logits, before)
