"""A GPU that is not there: all of CUDA that the engine and the benchmarks call, on tensors without contents.

Everything runs but the kernels: shapes, types, devices and the host's code are the real ones; Triton compiles for the
card (the same kernels for the same arguments, so that its cache is filled); a launch does nothing, and whatever is read
back is 0. Times mean nothing. Tests and the rehearsal of the first contact use it, nothing that serves requests does.

Streams are followed as far as PyTorch's own operations go: `races` lists those that touch the same bytes on two streams
without an order between them, and memory that is given back while another stream still has it in use. Kernels of ours
are not looked into: what they touch the host does not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from gpu.fake.streams import Event, Host, Stream

_ATEN = torch.ops.aten
_SHARED_MEMORY, _PROCESSORS, _MEMORY = 232448, 132, 141 << 30
"""As an H200 has them."""


class FakeCard(FakeTensorMode):  # type: ignore[no-untyped-call]
    """Tensors on "cuda" have no memory, those of the host are real."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.host = Host()
        self.launches: list[str] = []
        """Names of the kernels that were launched, in order."""
        self.forms: set[Any] = set()
        """What was launched, in terms of what Triton compiles anew: name, constants and types."""
        self.on_launch: Any = None
        """Called with a kernel's name before it is launched; what it raises, the launch raises."""

    @property
    def races(self) -> list[str]:
        return self.host.races

    def launch(self, kernel: str) -> None:
        self.launches.append(kernel)
        if self.on_launch is not None:
            self.on_launch(kernel)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        kwargs.pop("pin_memory", None)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        is_here = any(isinstance(tensor, FakeTensor) for tensor in tensors)
        if not is_here and torch.device(kwargs.get("device") or "cpu").type == "cpu":
            return func(*args, **kwargs)
        if func is _ATEN.index.Tensor and not isinstance(args[0], FakeTensor):
            raise RuntimeError("indices should be on the same device as the indexed tensor (cpu)")
        self.host.touch(func, args, kwargs)
        if func is _ATEN.copy_.default and not isinstance(args[0], FakeTensor):
            return args[0].zero_()
        if func is _ATEN._local_scalar_dense.default:
            return torch.zeros((), dtype=args[0].dtype).item()
        if func is _ATEN._to_copy.default and is_here and torch.device(kwargs.get("device") or "cuda").type == "cpu":
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if not is_here and tensors:
            args, kwargs = tree_map_only(torch.Tensor, self.from_tensor, (args, kwargs))
        made = super().__torch_dispatch__(func, types, args, kwargs)
        for tensor in tree_leaves(made):
            if isinstance(tensor, FakeTensor):
                self.host.returned(func, tensor)
        return made


@contextmanager
def fake_card(*, compiles: bool = True) -> Iterator[FakeCard]:
    """For all code inside. compiles: whether Triton compiles what is launched; if not, its interpreter is off, too."""
    card = FakeCard()
    with ExitStack() as stack:
        for patch in (*_cuda(card), *_tensors(card), *(_driver(card) if compiles else _no_kernels(card))):
            stack.enter_context(patch)
        stack.enter_context(card)
        yield card


def _cuda(card: FakeCard) -> Iterator[Any]:
    host = card.host
    properties = SimpleNamespace(
        name="fake card",
        total_memory=_MEMORY,
        multi_processor_count=_PROCESSORS,
        shared_memory_per_block_optin=_SHARED_MEMORY,
    )

    class CardStream(Stream):
        def __init__(self, device: object = None, **options: object) -> None:
            super().__init__(host)

    class CardEvent(Event):
        def __init__(self, **options: object) -> None:
            super().__init__(host)

    replaced: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_properties": lambda device=None: properties,
        "get_device_name": lambda device=None: properties.name,
        "get_device_capability": lambda device=None: (9, 0),
        "mem_get_info": lambda device=None: (_MEMORY, _MEMORY),
        "memory_allocated": lambda device=None: 0,
        "max_memory_allocated": lambda device=None: 0,
        "reset_peak_memory_stats": lambda device=None: None,
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: host.synchronize(),
        "current_stream": lambda device=None: host.current,
        "Stream": CardStream,
        "Event": CardEvent,
        "stream": lambda stream: host.on(stream) if stream is not None else nullcontext(),
        "graph_pool_handle": lambda: (0, 0),
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: card.launch("graph")),
        "graph": lambda graph, **options: nullcontext(),
    }
    for name, value in replaced.items():
        yield mock.patch.object(torch.cuda, name, value)
    yield mock.patch.object(torch.profiler, "profile", _NoProfile)


class _NoProfile(nullcontext[None]):
    """Of a card on which nothing runs."""

    def __init__(self, activities: object) -> None:
        super().__init__()

    def events(self) -> list[Any]:
        return []


def _tensors(card: FakeCard) -> Iterator[Any]:
    """What of tensors asks for a real device, or for pinned memory, before it is dispatched."""
    torch._C._ensureCUDADeviceGuardSet()
    make_tensor, make_empty, move = torch.tensor, torch.empty, torch.Tensor.to

    class HostGenerator(torch.Generator):
        def __new__(cls, device: object = None) -> HostGenerator:
            return super().__new__(cls)

    def to(tensor: torch.Tensor, *wanted: Any, **given: Any) -> torch.Tensor:
        device = next((one for one in (given.get("device"), *wanted) if isinstance(one, torch.device | str)), None)
        if device is None or not (tensor.is_cuda or torch.device(device).type == "cuda"):
            return move(tensor, *wanted, **given)
        dtype = next((one for one in (given.get("dtype"), *wanted) if isinstance(one, torch.dtype)), tensor.dtype)
        return cast(torch.Tensor, _ATEN._to_copy(tensor, dtype=dtype, device=torch.device(device)))

    def tensor(values: Any, *, device: Any = None, pin_memory: bool = False, **given: Any) -> torch.Tensor:
        made = make_tensor(values, **given)
        return made if device is None else to(made, device)

    def empty(*size: Any, pin_memory: bool = False, **given: Any) -> torch.Tensor:
        """On threads that read adapters, too, of which a mode knows nothing."""
        return make_empty(*size, **given)

    yield mock.patch.object(torch, "tensor", tensor)
    yield mock.patch.object(torch, "empty", empty)
    yield mock.patch.object(torch, "Generator", HostGenerator)
    yield mock.patch.object(torch.Tensor, "to", to)
    yield mock.patch.object(torch.Tensor, "cpu", lambda tensor: to(tensor, "cpu"))
    yield mock.patch.object(torch.Tensor, "cuda", lambda tensor: to(tensor, "cuda"))
    yield mock.patch.object(torch.Tensor, "pin_memory", lambda tensor: tensor)
    yield mock.patch.object(fake_tensor, "init_gpu_context")
    # An address that is as aligned as the real one.
    yield mock.patch.object(FakeTensor, "data_ptr", lambda tensor: tensor.storage_offset() * tensor.element_size())
    yield mock.patch.object(FakeTensor, "record_stream", lambda tensor, stream: card.host.keep(tensor, stream))
    yield mock.patch.object(FakeTensor, "copy_", _copy, create=True)
    yield mock.patch.object(FakeTensor, "__getitem__", _item, create=True)
    yield mock.patch.object(FakeTensor, "__setitem__", _set_item, create=True)


def _copy(target: FakeTensor, source: torch.Tensor, non_blocking: bool = False) -> Any:
    return _ATEN.copy_(target, source, non_blocking)


def _indexed(tensor: torch.Tensor, key: Any) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """(the view of numbers, slices and None; the tensors that pick of its dimensions)."""
    keys = list(key) if isinstance(key, tuple) else [key]
    dots = [place for place, one in enumerate(keys) if one is Ellipsis]
    if dots:
        rest = tensor.ndim - sum(one is not None and one is not Ellipsis for one in keys)
        keys[dots[0] : dots[0] + 1] = [slice(None)] * rest
    picks: list[torch.Tensor | None] = []
    for one in keys:
        if one is None:
            tensor = tensor.unsqueeze(len(picks))
        elif isinstance(one, slice):
            tensor = _ATEN.slice(tensor, len(picks), one.start, one.stop, one.step or 1)
        elif not isinstance(one, torch.Tensor):
            tensor = tensor.select(len(picks), int(one))
            continue
        picks.append(one if isinstance(one, torch.Tensor) else None)
    return tensor, picks


def _item(tensor: torch.Tensor, key: Any) -> Any:
    tensor, picks = _indexed(tensor, key)
    return _ATEN.index(tensor, picks) if any(pick is not None for pick in picks) else tensor


def _set_item(tensor: torch.Tensor, key: Any, value: Any) -> None:
    tensor, picks = _indexed(tensor, key)
    if not isinstance(value, torch.Tensor):
        value = torch.full((), value, dtype=tensor.dtype, device=tensor.device)
    if any(pick is not None for pick in picks):
        _ATEN.index_put_(tensor, picks, value)
    else:
        _ATEN.copy_(tensor, value)


def _driver(card: FakeCard) -> Iterator[Any]:
    """Triton's, for a card of sm_90."""
    import triton
    from triton.backends.compiler import GPUTarget

    limits = {"max_shared_mem": _SHARED_MEMORY, "multiprocessor_count": _PROCESSORS, "warpSize": 32}
    utils = SimpleNamespace(
        get_device_properties=lambda device: limits,
        load_binary=lambda name, kernel, shared, device: (0, 0, 32, 0, 1024),
    )
    driver = SimpleNamespace(
        utils=utils,
        launcher_cls=lambda source, metadata: lambda *arguments: card.launch(metadata.name),
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
    )
    yield mock.patch.object(triton.runtime.driver, "_active", driver)


def _no_kernels(card: FakeCard) -> Iterator[Any]:
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    def run(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        card.forms.add(_form(kernel, arguments, options))
        card.launch(kernel.fn.__name__)

    for kind in (JITFunction, InterpretedFunction):
        yield mock.patch.object(kind, "run", run)


def _form(kernel: Any, arguments: Any, options: Any) -> Any:
    given = dict(zip(kernel.arg_names, arguments, strict=False)) | options
    kinds = kernel.fn.__annotations__
    constants = {name: value for name, value in given.items() if "constexpr" in str(kinds.get(name, "constexpr"))}
    types = {name: getattr(given[name], "dtype", None) for name in given.keys() - constants.keys()}
    return kernel.fn.__name__, frozenset(map(str, constants.items())), frozenset(types.items())
