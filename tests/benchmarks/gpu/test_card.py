"""The card that is not there: tensors keep shapes, types and devices, and streams without an order are found out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from gpu.fake.card import FakeCard, fake_card


@pytest.fixture
def card() -> Iterator[FakeCard]:
    with fake_card(compiles=False) as card:
        yield card


def test_tensors_are_there_but_for_their_contents(card: FakeCard) -> None:
    x = torch.randn(6, 4, 3, device="cuda", dtype=torch.bfloat16)
    picks = torch.tensor([0, 2], device="cuda")
    assert [tuple(view.shape) for view in (x[2], x[1:5, None, 2], x[..., 0], x[picks], x[1:3, picks])] == [
        (4, 3),
        (4, 1, 3),
        (6, 4),
        (2, 4, 3),
        (2, 2, 3),
    ]
    x[1:3] = 1.0
    x[picks] = x[:2].float().to(x.dtype)
    assert x.to("cpu").is_cpu
    assert torch.arange(3).to("cuda", torch.int32).dtype == torch.int32
    assert x.sum().item() == 0
    assert x[1].data_ptr() == 24


def test_the_hosts_tensors_are_real(card: FakeCard) -> None:
    assert torch.arange(4).tolist() == [0, 1, 2, 3]
    host = torch.ones(3, pin_memory=True)
    host.copy_(torch.ones(3, device="cuda"))
    assert host.tolist() == [0, 0, 0]


def test_everything_is_as_before_afterwards() -> None:
    before = (torch.cuda.Stream, torch.Tensor.to, torch.tensor)
    with fake_card(compiles=False):
        assert torch.cuda.is_available()
    assert before == (torch.cuda.Stream, torch.Tensor.to, torch.tensor)
    assert torch.randn(3)[1:].shape == (2,)


def test_a_launch_can_be_made_to_fail(card: FakeCard) -> None:
    from multiflora_kernels.rms_norm import rms_norm

    x, weight = torch.randn(4, 64, device="cuda"), torch.ones(64, device="cuda")
    rms_norm(x, weight, 1e-5)
    assert len(card.launches) == 1

    def fail(kernel: str) -> None:
        raise torch.AcceleratorError(f"CUDA error: misaligned address in {kernel}")

    card.on_launch = fail
    with pytest.raises(torch.AcceleratorError, match="misaligned"):
        rms_norm(x, weight, 1e-5)


def test_two_streams_without_an_order_race(card: FakeCard) -> None:
    x = torch.zeros(8, device="cuda")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        x[:4].add_(1)
    assert card.races == ["aten.add_.Tensor beside aten.zeros.default"]
    torch.cuda.synchronize()
    x[2:6] = 1.0
    with torch.cuda.stream(side):
        x[:4].add_(1)
    assert card.races[1:] == ["aten.add_.Tensor beside aten.copy_.default"]


@pytest.mark.parametrize("order", ["wait", "event", "host", "apart", "both read"])
def test_an_order_is_no_race(card: FakeCard, order: str) -> None:
    x, y = torch.zeros(8, device="cuda"), torch.zeros(8, device="cuda")
    torch.cuda.synchronize()
    side, current = torch.cuda.Stream(), torch.cuda.current_stream()
    if order == "both read":
        y.copy_(x)
    else:
        x[:4].add_(1)
    if order == "wait":
        side.wait_stream(current)
    elif order == "event":
        side.wait_event(current.record_event())
    elif order == "host":
        current.record_event().synchronize()
    with torch.cuda.stream(side):
        if order == "both read":
            (x + 1).add_(1)
        elif order == "apart":
            x[4:].add_(1)
        else:
            x[3:].add_(1)
    assert card.races == []
