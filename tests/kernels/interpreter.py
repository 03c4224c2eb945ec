"""Triton's interpreter without the work that it repeats: at tiny shapes more than half of its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import triton.language as tl
from triton.runtime import interpreter


@contextmanager
def quick_interpreter() -> Iterator[None]:
    """Each call of a `@jit` function in a kernel would swap all of triton.language again for what is interpreted; now
    a launch swaps it once. Sums of integers are not computed a second time, in int64, to see whether they overflow,
    which GPUs do not look for either.
    """
    options = replace(interpreter.interpreter_builder.options, sanitize_overflow=False)
    with (
        patch.object(interpreter, "_patch_lang", _SwapOnce(interpreter._patch_lang)),
        patch.object(interpreter.interpreter_builder, "options", options),
    ):
        yield


class _SwapOnce:
    """`_patch_lang`, which does nothing for modules that the launch at hand has swapped already."""

    def __init__(self, swap: Callable[[Any], Any]) -> None:
        self._swap = swap
        # Of triton.language and triton.language.core, by id.
        self._swapped: set[int] = set()

    def __call__(self, function: Any) -> Any:
        seen = {id(value) for value in function.__globals__.values() if value is tl or value is tl.core}
        if seen and seen <= self._swapped:
            return interpreter._LangPatchScope()
        scope = self._swap(function)
        restore = scope.restore
        self._swapped |= seen

        def ended() -> None:
            self._swapped.clear()
            restore()

        scope.restore = ended
        return scope
