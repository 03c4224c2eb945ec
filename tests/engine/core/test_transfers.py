"""Arrays that go to the device in one piece and come back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from multiflora_engine.core.transfers import Readback, Staging

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def arrays(seed: int, length: int = 5) -> list[np.ndarray]:
    numbers = np.random.default_rng(seed)
    return [
        numbers.integers(0, 100, length),
        numbers.integers(0, 100, (3, length)).astype(np.int32),
        np.empty(0, np.int32),
        numbers.random(length).astype(np.float32),
        numbers.integers(0, 100, (length, 4)).T,
    ]


def test_what_arrives_is_what_was_sent() -> None:
    staging = Staging(DEVICE)
    sent = [arrays(seed, length) for seed, length in enumerate((5, 1, 40_000, 7, 3))]
    arrived = [staging.upload(group) for group in sent]
    for group, tensors in zip(sent, arrived, strict=True):
        for array, tensor in zip(group, tensors, strict=True):
            assert (tensor.device.type, tensor.shape) == (DEVICE.type, array.shape)
            assert tensor.dtype == torch.from_numpy(array.copy()).dtype
            assert np.array_equal(tensor.cpu().numpy(), array)


def test_a_target_holds_equal_shapes_at_equal_places() -> None:
    staging = Staging(DEVICE)
    target = torch.zeros(4096, dtype=torch.uint8, device=DEVICE)
    views = staging.upload(arrays(0), target)
    for seed in range(1, 6):
        expected = arrays(seed)
        staging.upload(expected, target)
        for view, array in zip(views, expected, strict=True):
            assert np.array_equal(view.cpu().numpy(), array)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_readback_does_not_wait_for_what_the_device_was_given_since() -> None:
    tensor = torch.arange(5, device=DEVICE)
    readback = Readback([tensor])
    torch.cuda._sleep(2_000_000_000)
    behind = torch.cuda.Event()
    behind.record()
    assert readback.wait()[0].tolist() == [0, 1, 2, 3, 4]
    assert not behind.query()


def test_a_readback_brings_all_tensors() -> None:
    tensors = [torch.arange(5, device=DEVICE), torch.ones(2, 3, device=DEVICE)]
    assert [tensor.tolist() for tensor in Readback(tensors).wait()] == [tensor.tolist() for tensor in tensors]
