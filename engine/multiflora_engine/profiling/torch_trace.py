"""The operations that PyTorch runs on all threads of this process, and on its GPU, as a Chrome trace (gzip).

https://ui.perfetto.dev reads it.
"""

from __future__ import annotations

import gzip
import shutil
import tempfile
import time
from pathlib import Path

from multiflora_engine.profiling.process_memory import own_resident_bytes

# An operation takes about a kilobyte until it is written: a busy engine would fill the machine.
_MOST_GROWTH = 512 << 20
_PERIOD = 0.05


def record_torch(seconds: float) -> bytes:
    """Ends early where what is recorded fills half a GiB. Raises OSError where the disk for temporary files is full."""
    import torch
    from torch._C._profiler import _ExperimentalConfig
    from torch.autograd.profiler import profile

    on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    recorded = profile(
        use_device="cuda" if on_gpu else None,
        use_kineto=True,
        # Steps run on a thread that is not this one.
        experimental_config=_ExperimentalConfig(profile_all_threads=True),
    )
    with recorded:
        ends, most = time.monotonic() + seconds, own_resident_bytes() + _MOST_GROWTH
        while (left := ends - time.monotonic()) > 0 and own_resident_bytes() <= most:
            time.sleep(min(_PERIOD, left))
    with tempfile.TemporaryDirectory(prefix="multiflora-profile-") as folder:
        written = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(written))  # type: ignore[no-untyped-call]
        return _compressed(written)


def _compressed(written: Path) -> bytes:
    """Kineto says nothing of a disk that is full. Raises OSError."""
    if not written.is_file() or not _is_whole(written):
        raise OSError(f"no room in {tempfile.gettempdir()}")
    packed = written.with_suffix(".gz")
    with written.open("rb") as source, gzip.open(packed, "wb", compresslevel=5) as target:
        shutil.copyfileobj(source, target)
    return packed.read_bytes()


def _is_whole(written: Path) -> bool:
    with written.open("rb") as file:
        file.seek(max(0, written.stat().st_size - 64))
        return file.read().rstrip().endswith(b"}")
