"""Graphs beside steps that run kernel by kernel, and adapters that come and go: on a GPU as they are, elsewhere fewer,
and with graphs that compute again at each replay.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.execution.test_decode_graphs import FakeCapture, decode_arrays
from tests.engine.parity.test_adapters import KINDS, save_adapter
from transformers import LlamaConfig

from multiflora_adapters.store import ArtifactStore
from multiflora_engine.build import BuiltEngine
from multiflora_engine.execution.step_arrays import AdapterRuns

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
KINDS_IN_USE = ("all_linear", "rslora", "dora", "embeddings", "lora_bias") if ON_GPU else ("all_linear", "dora")
MOST = 8 if ON_GPU else 2
"""Sequences of a step."""

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]

Start = Callable[..., BuiltEngine]


@pytest.fixture
def start(start_engine: Start, save_model: Any, tiny_config: Any, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Engines on one tiny Llama; graphs: whether decode steps are graphs. The model's folder is `start.folder`."""
    _, folder = save_model(tiny_config(LlamaConfig))

    def run(*, graphs: bool = True, **options: Any) -> BuiltEngine:
        with monkeypatch.context() as patch:
            if not ON_GPU:
                chosen = FakeCapture() if graphs else None
                patch.setattr("multiflora_engine.build.choose_capture", lambda device, enforce_eager: chosen)
                patch.setattr("multiflora_engine.execution.device_side.runs_asynchronously", lambda device: graphs)
                patch.setattr("multiflora_engine.execution.device_side.mixed_sizes", lambda most: [8])
            return start_engine(folder, device=DEVICE, enforce_eager=not graphs, **options)

    run.folder = folder  # type: ignore[attr-defined]
    return run


@pytest.fixture
def adapters(start: Any, store: ArtifactStore, tmp_path: Path) -> list[str]:
    """The digests of one of each kind."""
    for kind in KINDS_IN_USE:
        save_adapter(start.folder, tmp_path / kind, KINDS[kind])
    return [store.add(tmp_path / kind).digest for kind in KINDS_IN_USE]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"] if ON_GPU else ["float32"])
def test_rows_of_the_base_have_the_same_bits_beside_adapters(
    dtype: str, start: Start, ask: Any, make_adapters: Any
) -> None:
    """One graph with adapters and one without, of one size: the base's rows come first in both."""
    built = start(max_num_seqs=MOST, dtype=dtype)
    (digest,) = make_adapters([16])
    ask(built, [[5, 6]], [digest], max_tokens=1)
    slot = built.residency.acquire(digest)
    assert slot is not None
    cache, graphs = built.device_side.cache, built.device_side.graphs
    assert graphs is not None
    for tensor in (*cache.keys, *cache.values):
        tensor.normal_()
    hidden = {}
    with torch.inference_mode():
        for name, runs in (("base", AdapterRuns([MOST], [])), ("mixed", AdapterRuns([MOST // 2, MOST], [slot]))):
            replayed = graphs.run(decode_arrays(MOST, runs))
            assert replayed is not None
            hidden[name] = replayed[0].clone()
    assert torch.isfinite(hidden["base"]).all()
    half = MOST // 2
    # Elsewhere the base's kernels are native, those with adapters interpreted: the same but for rounding.
    tolerance = 0.0 if ON_GPU else 1e-5
    torch.testing.assert_close(hidden["base"][:half], hidden["mixed"][:half], rtol=tolerance, atol=tolerance)
    assert not (hidden["base"][half:] == hidden["mixed"][half:]).all(1).any(), "the adapter changes the others"


def test_a_whole_engine_says_the_same_with_graphs_and_without(start: Start, ask: Any, adapters: list[str]) -> None:
    """Batches that fill a size and that do not; adapters whose graphs are captured at the start, and later."""
    graphed, eager = (start(graphs=graphs, max_num_seqs=MOST, max_loras=8) for graphs in (True, False))
    prompts = [[5 + i, 6, 7 + i] * (i + 1) for i in range(6)]
    batches: list[list[str | None]] = [[None], adapters[:2]]
    if ON_GPU:
        batches += [[None] * 3, [*adapters[:2], None], [None, *adapters]]
    for _ in range(2):
        for batch in batches:
            expected = ask(eager, prompts[: len(batch)], batch, max_tokens=3)
            for answer, wanted in zip(ask(graphed, prompts[: len(batch)], batch, max_tokens=3), expected, strict=True):
                assert answer.tokens == wanted.tokens
                assert answer.logprobs == pytest.approx(wanted.logprobs, abs=1e-3)
        for _ in range(8):
            graphed.use_idle_moment()


def test_adapters_come_and_go_under_load(start: Start, ask: Any, adapters: list[str]) -> None:
    """More adapters than room, uploads in small pieces while others decode, some given up half-way: every answer is
    what its adapter says when all are resident."""
    calm = start(max_num_seqs=MOST, max_loras=8)
    busy = start(max_num_seqs=MOST, max_loras=1, max_lora_rank=16 if ON_GPU else 8)
    busy.residency._bytes_per_poll = 20_000
    rounds = 4 if ON_GPU else 1
    asked = [
        ([9 + number, 5, 40 + number], adapter) for number in range(rounds) for adapter in (*adapters, None, *adapters)
    ]
    expected = [ask(calm, [prompt], [adapter], max_tokens=2)[0].tokens for prompt, adapter in asked]
    for digest in adapters:  # half-way up, and gone
        busy.residency.load(digest)
        for _ in range(3):
            busy.residency.poll()
            busy.residency.wait(0.2)
        busy.residency.unload(digest)
    found = ask(busy, [prompt for prompt, _ in asked], [adapter for _, adapter in asked], max_tokens=2)
    assert [answer.tokens for answer in found] == expected
    assert busy.residency.evictions >= len(adapters) - 1
