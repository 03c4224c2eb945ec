"""The row-wise ops that are measured on a GPU run at tiny shapes here, and their floors count what they say."""

from __future__ import annotations

import pytest
import torch

from gpu.probes.rows import Widths, layer_probes, sampling_probes

TINY = Widths(hidden=64, intermediate=96, heads=4, kv_heads=2, size=16, vocab=150, dtype=torch.float32)


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def test_layer_rows_run_and_count(device):
    rows = [probe.make() for probe in layer_probes(device, TINY, [1, 19])]
    for row in rows:
        assert row.call() is not None
    assert [row.name for row in rows] == ["add_rms_norm", "rope_and_write_kv", "silu_and_mul"] * 2
    copies = [int(row.shape.rsplit("x", 1)[1]) for row in rows]
    for tokens, first in ((1, 0), (19, 3)):
        norm, rope, silu = (row.num_bytes / n for row, n in list(zip(rows, copies, strict=True))[first : first + 3])
        assert norm == 4 * 64 * (4 * tokens + 1)
        assert rope == tokens * 4 * (2 * 8 * 16 + 16)  # 4 + 2 + 2 heads in and out, 8 cosines and 8 sines
        assert silu == 4 * tokens * 3 * 96


def test_sampling_rows_run_and_count(device):
    probes = list(sampling_probes(device, TINY, [1, 3], num_top=5))
    rows = [probe.make() for probe in probes]
    assert [probe.name for probe in probes] == [f"{row.name}, {row.shape}" for row in rows]
    names = ["greedy", "logprobs, top 5", "sample, uncut", "sample, top-p 0.95", "sample, top-k 50", "sample, both"]
    assert [row.name for row in rows] == names * 2
    for row in rows:
        found = row.call()
        tokens = found.top_ids if row.name.startswith("logprobs") else found
        assert tokens.shape[0] == int(row.shape.removeprefix("L="))
        assert ((tokens >= 0) & (tokens < 150)).all()
        assert row.num_bytes == tokens.shape[0] * 150 * 4
