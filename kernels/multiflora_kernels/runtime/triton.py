"""Triton where it can be had: compiled for a GPU, interpreted in tests, absent elsewhere. Knows no kernel.

Kernel modules take `jit` and `tl` from here, so that they import on machines without Triton, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

__all__ = [
    "INTERPRETED",
    "KernelVariant",
    "dot_dtype",
    "jit",
    "jit_with_varying",
    "power_of_two",
    "rounded",
    "runs_kernels",
    "tl",
    "triton",
]

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None
    tl = SimpleNamespace(constexpr=Any, tensor=Any)

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
"""Whether kernels run in Triton's interpreter; decided by the environment when a kernel's module is imported."""


def runs_kernels(device: torch.device) -> bool:
    """Whether ops on this device are kernels. Those of a CPU are native; there only tests interpret kernels."""
    return device.type == "cuda"


def jit(function: Callable[..., Any]) -> Any:
    """`triton.jit`. Arguments are annotated tl.tensor (pointers and scalars) or tl.constexpr."""
    return function if triton is None else triton.jit(function)


def jit_with_varying(*names: str) -> Callable[[Callable[..., Any]], Any]:
    """`jit` of a kernel whose integers `names` differ from step to step: compiled once for all their values, not while
    requests wait because one is the first to be 1 or a multiple of 16."""
    return lambda function: function if triton is None else triton.jit(function, do_not_specialize=names)


@jit
def rounded(x: tl.tensor, DTYPE: tl.constexpr) -> tl.tensor:
    """Float32 values as they are once they have been stored as DTYPE."""
    return x.to(DTYPE).to(tl.float32)


def power_of_two(number: int) -> int:
    """The smallest that is not below number: Triton's blocks have such sizes."""
    return 1 << (number - 1).bit_length()


_DOT_DTYPES = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32"}


def dot_dtype(dtype: torch.dtype) -> Any:
    """The tl dtype that operands of `tl.dot` are cast to, as a constexpr argument.

    Float32 in the interpreter, whose bfloat16 products are wrong without a word.
    """
    return tl.float32 if INTERPRETED else getattr(tl, _DOT_DTYPES[dtype])


@dataclass(frozen=True)
class KernelVariant:
    """One form in which a kernel is launched, enough to compile it without a GPU.

    kernel: the `triton.jit` function. signature: each argument's type in order ("*bf16", "i32", "fp32", "constexpr").
    constants: values of the constexpr arguments. unaligned: arguments that need not be multiples of 16 (bytes for
    pointers); all others are, as at the real launch. options: num_warps, num_stages and the like. capabilities: where
    this form is launched.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    unaligned: frozenset[str] = frozenset()
    options: Mapping[str, int] = field(default_factory=dict)
    capabilities: tuple[int, ...] = (80, 90)
