"""The device that was chosen is the one that everything runs on."""

from __future__ import annotations

import pytest
import torch

from multiflora_engine.execution.device import memory_errors_explained, use_device
from multiflora_engine.models.errors import ModelError


def test_the_second_gpu_is_used_for_what_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    use_device(torch.device("cpu"))
    assert not used
    use_device(torch.device("cuda:1"))
    assert used == [torch.device("cuda:1")]


def test_what_the_machine_refuses_to_allocate_is_a_sentence_that_names_the_settings() -> None:
    with (
        pytest.raises(ModelError, match=r"more memory than there is\. Lower --max-num-seqs"),
        memory_errors_explained(),
    ):
        torch.empty(1 << 50)
    with pytest.raises(RuntimeError, match="must match"), memory_errors_explained():
        torch.ones(2) + torch.ones(3)
