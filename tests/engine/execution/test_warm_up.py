"""Warming up the sampler runs every op that a request can ask for."""

from __future__ import annotations

import pytest
import torch

from multiflora_engine.execution.warm_up import warm_up_sampler
from multiflora_engine.sampling.sampler import Sampler
from multiflora_kernels.sampling import ops as sampling

OPS = ("greedy", "sample", "logprobs", "apply_bitmask_", "bias_", "penalize_")


def test_every_op_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: set[str] = set()

    def noting(name: str, op):
        def call(*arguments):
            ran.add(name)
            return op(*arguments)

        return call

    for name in OPS:
        monkeypatch.setattr(sampling, name, noting(name, getattr(sampling, name)))
    logits = torch.randn(5, 40)
    before = logits.clone()
    warm_up_sampler(Sampler(40), logits)
    assert ran == set(OPS)
    assert torch.equal(logits, before)
