"""What the device has of the block tables is what the step says, however little of it was sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from multiflora_engine.core.transfers import Staging
from multiflora_engine.execution.graphs.device_tables import DeviceTables

CPU = torch.device("cpu")


def test_only_what_differs_from_the_step_before_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequences that grow, leave, come and change places; tables wider and narrower than those before."""
    sent: list[int] = []
    upload = Staging.upload

    def counted(staging: Staging, arrays: Any, *target: Any) -> list[torch.Tensor]:
        sent.append(len(arrays[0]))
        return upload(staging, arrays, *target)

    monkeypatch.setattr(Staging, "upload", counted)
    tables, staging = DeviceTables(4, 6, CPU), Staging(CPU)
    address = tables.content.data_ptr()

    def fill(*rows: list[int]) -> int:
        """How many entries were sent."""
        sent.clear()
        step = np.array(rows, dtype=np.int32)
        tables.fill(step, staging)
        assert tables.content[: step.shape[0], : step.shape[1]].tolist() == step.tolist()
        return sum(sent)

    assert fill([7, 8], [9, 0], [3, 4]) == 5, "what is 0 there is right already"
    assert fill([7, 8], [9, 0], [3, 4]) == len(sent) == 0, "no copy at all"
    assert fill([7, 8], [9, 5], [3, 4]) == 1, "a new block"
    assert fill([7, 8, 2], [9, 5, 0], [3, 4, 0]) == 1
    assert fill([9, 5], [3, 4]) == 4, "the first has ended, the others have moved up"
    assert fill([9, 5, 0], [3, 4, 0]) == 1, "the block that the row had before"
    assert fill([9, 5, 0, 1], [3, 4, 0, 1], [3, 4, 0, 1], [6, 6, 6, 6]) == 7
    assert tables.content.data_ptr() == address
