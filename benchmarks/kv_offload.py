"""What copies of KV blocks on disk are worth, and what writing them costs the steps.

    python benchmarks/kv_offload.py [--tokens 4080] [--threads 1]

A random Llama of the demo's shape. First: a prompt is computed, the engine is closed, another one is started on the
folder, and the prompt asked again: its first load, and two further ones. A ratio of processor time is that of the step
loop's thread and the one that copies together; on a machine that is busy otherwise, the clock's says little.

Then: four answers are decoded behind prompts, with copies to disk switched off and on, in turns. A step's time is by
the clock, less what the step loop's thread waited for a core (Linux tells it): what is left is its own work, and what
it waited for locks and for the interpreter. "copying" is what the other thread computed while one step did: on a single
core the step is longer by that at most.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from multiflora_engine.build import BuiltEngine, build_engine
from multiflora_engine.offload.offloading import Offloading
from multiflora_engine.parallel.shared_copies import SharedCopies
from multiflora_engine.protocol.config import EngineConfig
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams

SHAPE: dict[str, Any] = {
    "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
    "intermediate_size": 384, "vocab_size": 1536, "max_position_embeddings": 8192,
}  # fmt: skip
PROMPTS = 3
DECODING, DECODED, ROUNDS = 4, 120, 4
STALL_SECONDS = 0.001


class Bench:
    def __init__(self, folder: Path, tokens: int, threads: int) -> None:
        self._folder = folder
        self._threads = threads
        self._generator = torch.Generator().manual_seed(3)
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(folder / "model")
        self._prompts = [self._ids(tokens) for _ in range(PROMPTS)]

    def loads(self) -> None:
        with self._engine("loads") as engine:
            self._timed(engine, self._ids(64), "warm-up")
            computed = [self._timed(engine, prompt, "computed") for prompt in self._prompts]
            assert engine.offloading is not None
            assert engine.offloading.wait_until_kept(120)
        with self._engine("loads") as engine:
            for prompt, (clock, processor) in zip(self._prompts, computed, strict=True):
                loaded = self._timed(engine, prompt, "from disk")
                print(f"    {processor / loaded[1]:.1f} times by the processor, {clock / loaded[0]:.1f} by the clock")

    def steps(self) -> None:
        found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        for _ in range(ROUNDS):
            for copies in found:
                with self._engine("steps" if copies else None) as engine:
                    found[copies] += self._decode(engine)
        for copies, steps in found.items():
            times = sorted(seconds for seconds, _ in steps)
            row = {"median": statistics.median(times), "p99": times[len(times) * 99 // 100], "longest": times[-1]}
            shown = ", ".join(f"{name} {1000 * seconds:.2f} ms" for name, seconds in row.items())
            copying = max(seconds for _, seconds in steps)
            print(f"  {'copies' if copies else 'none  '}  {len(steps)} steps: {shown}, copying {1000 * copying:.2f} ms")

    def _timed(self, built: BuiltEngine, prompt: list[int], what: str) -> tuple[float, float]:
        """Seconds by the clock and of the processor until its first token."""
        clock, processor = time.perf_counter(), _processor_seconds()
        built.engine.add_request(_request(prompt, 1))
        cached = 0
        while built.engine.has_work:
            cached = max([cached, *(delta.cached_tokens for delta in built.engine.step())])
            if built.engine.is_stalled:
                time.sleep(STALL_SECONDS)
        took = time.perf_counter() - clock, _processor_seconds() - processor
        print(f"  {what:10} {len(prompt)} tokens ({cached} cached): {took[1]:.3f} s processor, {took[0]:.3f} s clock")
        return took

    def _decode(self, built: BuiltEngine) -> list[tuple[float, float]]:
        """Of each step that decodes alone, behind prompts whose blocks are being written: its seconds, and what other
        threads computed meanwhile."""
        for _ in range(DECODING):
            built.engine.add_request(_request(self._ids(512), DECODED))
        copying = _Copying(built.offloading)
        steps = []
        while built.engine.has_work:
            waited, began = _waited_for_a_core(), time.perf_counter()
            deltas = built.engine.step()
            took = time.perf_counter() - began - (_waited_for_a_core() - waited)
            if len(deltas) == DECODING and not any(delta.cache_write_tokens for delta in deltas):
                steps.append((took, copying.seconds))
        return steps

    @contextmanager
    def _engine(self, copies: str | None) -> Iterator[BuiltEngine]:
        config = EngineConfig(
            model_path=str(self._folder / "model"),
            artifact_root=str(self._folder / "artifacts"),
            kv_cache_memory=256 << 20,
            max_num_seqs=16,
            max_num_batched_tokens=2048,
            num_threads=self._threads,
            device="cpu",
            kv_offload_dir=None if copies is None else str(self._folder / copies),
        )
        built = build_engine(config)
        try:
            yield built
        finally:
            if built.offloading is not None:
                built.offloading.close()

    def _ids(self, count: int) -> list[int]:
        return torch.randint(3, SHAPE["vocab_size"], (count,), generator=self._generator).tolist()


class _Copying:
    """What other threads computed in the last step, from where it tells that it begins until it tells that it ends."""

    def __init__(self, offloading: Offloading | SharedCopies | None) -> None:
        self.seconds = self._before = 0.0
        if offloading is not None:
            self._begins, self._ends = offloading.step_begins, offloading.step_ends
            offloading.step_begins = self._begin  # type: ignore[method-assign]
            offloading.step_ends = self._end  # type: ignore[method-assign]

    def _begin(self) -> None:
        self._begins()
        self._before = _others_seconds()

    def _end(self) -> None:
        self.seconds = _others_seconds() - self._before
        self._ends()


def _request(prompt: list[int], max_tokens: int) -> GenerateRequest:
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    return GenerateRequest(id=os.urandom(8).hex(), prompt_token_ids=prompt, params=params)


def _processor_seconds() -> float:
    """Of all threads."""
    return time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID)


def _others_seconds() -> float:
    """Of all threads but the one that asks."""
    return _processor_seconds() - time.thread_time()


def _waited_for_a_core() -> float:
    """By the asking thread, since it began."""
    return int(Path("/proc/thread-self/schedstat").read_text(encoding="ascii").split()[1]) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4080, help="of each prompt that is loaded")
    parser.add_argument("--threads", type=int, default=1, help="that compute; more of them spin while they wait")
    arguments = parser.parse_args()
    print(f"load of this machine: {os.getloadavg()[0]:.1f}, cores: {os.cpu_count()}")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), arguments.tokens, arguments.threads)
        print("From disk, against computing:")
        bench.loads()
        print("Steps that decode, with and without copies being written:")
        bench.steps()


if __name__ == "__main__":
    main()
