"""Times ways of making a product on this machine, once: what was found is remembered. Knows no way by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from importlib.metadata import version

import torch

from multiflora_kernels.runtime.machine_cache import remember, remembered
from multiflora_kernels.runtime.native import native_status
from multiflora_kernels.runtime.processor import this_processor

ROWS = (1, 2, 4, 8, 16, 64, 240)
SIZE = 1024
"""Inputs and outputs of the product that stands for all: large enough that no way lives from its start."""

_REPEATS = 5

Product = Callable[[torch.Tensor], object]
Seconds = Mapping[int, float]
"""By the number of rows."""


def machine_key() -> str:
    """What the fastest way depends on."""
    parts = version("torch"), native_status(), f"{torch.get_num_threads()} threads", *this_processor().capabilities
    return "|".join(parts)


def found_once(table: str, measure: Callable[[], object]) -> object:
    """What `measure` found the first time that it was asked on this machine, whichever process did: values that JSON
    has. table: of the machine's cache. What is read there may be anything: it is a file that the user can write."""
    key = machine_key()
    known = remembered(table)
    if key in known:
        return known[key]
    found = measure()
    remember(table, {key: found})
    return found


def seconds_by_rows(product: Product) -> Seconds:
    """product: of float32 [rows, SIZE]. On one thread: its processor time does not tell what else the machine does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {rows: _seconds(product, torch.randn(rows, SIZE)) for rows in ROWS}
    finally:
        torch.set_num_threads(threads)


def first_row_without_loss(seconds: Seconds, others: Seconds) -> int | None:
    """From how many rows on a way is never slower than the other; None: with the most rows it is."""
    least = None
    for rows in sorted(seconds, reverse=True):
        if seconds[rows] > others[rows]:
            break
        least = rows
    return least


def _seconds(product: Product, x: torch.Tensor) -> float:
    """The best of a few calls."""
    product(x)
    found = []
    for _ in range(_REPEATS):
        began = time.thread_time()
        product(x)
        found.append(time.thread_time() - began)
    return min(found)
