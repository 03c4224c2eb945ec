"""The device that was chosen is the one that everything runs on."""

from __future__ import annotations

import pytest
import torch

from multiflora_engine.execution.device import use_device


def test_the_second_gpu_is_used_for_what_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    use_device(torch.device("cpu"))
    assert not used
    use_device(torch.device("cuda:1"))
    assert used == [torch.device("cuda:1")]
