"""How an NVIDIA GPU records work as a graph. Knows nothing of what is recorded."""

from __future__ import annotations

from collections.abc import Callable

import torch

from multiflora_engine.execution.graphs.decode_graphs import Capture, Graph


class CudaCapture:
    """Records CUDA graphs (a `Capture`). They share one memory pool, because only one of them runs at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], torch.Tensor]) -> Graph:
        # Once by itself: kernels are compiled and loaded, libraries choose their algorithms and take their workspace.
        work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Only this thread's calls count: another one may be pinning the memory of an adapter that it has just read.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = work()
        return Graph(graph.replay, output)


def choose_capture(device: torch.device, enforce_eager: bool) -> Capture | None:
    """None where decode steps are run kernel by kernel: on a CPU, or because the operator asked for it."""
    return CudaCapture() if device.type == "cuda" and not enforce_eager else None
