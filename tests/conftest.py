"""What every test shares: Hugging Face libraries stay offline; property tests draw anew, but not in CI."""

from __future__ import annotations

import gc
import logging
import os
from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if not torch.cuda.is_available():
    # Before any kernel's module is imported: without a GPU, kernels run in Triton's interpreter, on CPU tensors.
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


# No example fails for the machine's pace.
settings.register_profile("any pace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# A change must not fail in CI for an example that it has nothing to do with; everywhere else new ones are tried, and
# twice as many.
settings.register_profile("ci", settings.get_profile("any pace"), derandomize=True, max_examples=50)
settings.load_profile("ci" if os.environ.get("CI") else "any pace")

# What a slow test weighs beside one that is not.
_SLOW = 400


def pytest_itemcollected(item: pytest.Item) -> None:
    if "kernel_device" in getattr(item, "fixturenames", ()):
        item.add_marker("kernel")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files that take long come first: a worker that begins one as the last has no other beside it."""
    _leave_out(config, items)
    weights: Counter[object] = Counter()
    for item in items:
        weights[item.path] += _SLOW if {"slow", "browser"} & {mark.name for mark in item.iter_markers()} else 1
    items.sort(key=lambda item: -weights[item.path])


def _leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a test's cases SQLite has all, PostgreSQL the first: all by the mark `each_database`, none by `sqlite`."""
    known: set[tuple[object, str]] = set()
    kept, left_out = [], []
    for item in items:
        case = getattr(item, "callspec", None)
        is_on_postgresql = case is not None and case.params.get("backend") == "postgresql"
        test = (item.path, item.name.partition("[")[0])
        is_one_more = test in known and not item.get_closest_marker("each_database")
        is_needless = is_on_postgresql and (is_one_more or item.get_closest_marker("sqlite") is not None)
        (left_out if is_needless else kept).append(item)
        if is_on_postgresql:
            known.add(test)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish() -> None:
    """What has been imported stays: no later collection of garbage need look through it."""
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")


@pytest.fixture(autouse=True)
def _access_log_as_it_was() -> Iterator[None]:
    """A server that a test started in this process wrote its lines to that test's standard error."""
    log = logging.getLogger("multiflora.access")
    handlers, propagate, level = log.handlers, log.propagate, log.level
    yield
    log.handlers, log.propagate = handlers, propagate
    log.setLevel(level)
