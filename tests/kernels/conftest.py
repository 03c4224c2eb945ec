"""The two ways through every op on a CPU, and what counts as near."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from multiflora_kernels.runtime import native as native_library
from multiflora_kernels.runtime.triton import INTERPRETED

Near = Callable[[torch.Tensor, torch.Tensor], None]


@pytest.fixture(scope="session", autouse=True)
def _quick_interpreter() -> Iterator[None]:
    if INTERPRETED:
        from tests.kernels.interpreter import quick_interpreter

        with quick_interpreter():
            yield
    else:
        yield


@pytest.fixture(autouse=True)
def native_lookups() -> Iterator[None]:
    """Functions are looked up once in a process; a test that takes the library away wants them looked up again."""
    native_library.native_function.cache_clear()
    yield
    native_library.native_function.cache_clear()


@pytest.fixture(params=["native", "torch"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test with the native library and without it."""
    if request.param == "torch":
        monkeypatch.setattr(native_library, "_load", lambda: (None, "switched off by a test"))
    elif native_library.library() is None:
        pytest.skip(native_library.native_status())
    return str(request.param)


@pytest.fixture
def kernel_device() -> torch.device:
    """Where Triton kernels run: the GPU, or the interpreter on CPU tensors (keep shapes tiny there)."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


@pytest.fixture
def near() -> Near:
    """Asserts 1e-5 of the largest expected value: what float32 kernels promise against a float64 result."""

    def check(actual: torch.Tensor, expected: torch.Tensor) -> None:
        assert actual.shape == expected.shape
        assert torch.isfinite(actual).all()
        if actual.numel() == 0:
            return
        error = (actual.double() - expected.double()).abs().max().item()
        assert error <= 1e-5 * max(1.0, expected.abs().max().item()), error

    return check
