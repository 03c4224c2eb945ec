"""Graphs on a device that is not there: what a replay finds at the captured addresses decides what it computes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.engine.parity.test_adapters import KINDS, save_adapter
from transformers import LlamaConfig

from multiflora_adapters.store import ArtifactStore
from multiflora_engine.core.transfers import Staging
from multiflora_engine.execution.graphs.decode_graphs import DecodeGraphs, Graph
from multiflora_engine.execution.step_arrays import AdapterRuns, StepArrays
from multiflora_engine.execution.token_feedback import TokenFeedback
from multiflora_kernels.attention.cascade import CascadeCosts
from multiflora_kernels.attention.tiles import AttentionHeads

# Rows that fill up a batch hold whatever their memory held: interpreted kernels compute with it, nobody looks at it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning"),
]


class FakeCapture:
    """A replay does the captured work again, on what lies in the static memory by then."""

    def __init__(self) -> None:
        self.captured = 0
        self.replays: list[int] = []
        self.widths: set[int] = set()

    def __call__(self, work: Callable[[], torch.Tensor]) -> Graph:
        self.captured += 1
        output = work().clone()
        self.widths.add(output.shape[1])

        def replay() -> None:
            self.replays.append(len(output))
            output.copy_(work())

        return Graph(replay, output)


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> FakeCapture:
    """Engines that start from now on have graphs and run ahead, as on a GPU."""
    fake = FakeCapture()
    monkeypatch.setattr("multiflora_engine.build.choose_capture", lambda device, enforce_eager: fake)
    for module in ("build", "execution.device_side"):
        monkeypatch.setattr(f"multiflora_engine.{module}.runs_asynchronously", lambda device: True)
    # Interpreted kernels take their time for each token of a graph.
    monkeypatch.setattr("multiflora_engine.execution.device_side.mixed_sizes", lambda most: [8])
    return fake


def test_replays_say_what_the_model_says(
    capture: FakeCapture,
    save_model: Any,
    tiny_config: Any,
    start_engine: Any,
    ask: Any,
    check_answer: Any,
    prompts: Any,
) -> None:
    """Sizes that fit and sizes that are filled up; a batch that shrinks as its sequences end."""
    model, folder = save_model(tiny_config(LlamaConfig))
    built = start_engine(folder, max_num_seqs=8)
    assert capture.captured == 2 * 4 + 2 + 2, (
        "each size with and without adapters, the largest with and without groups, and 8 tokens of any sequences"
    )
    assert capture.widths == {model.config.hidden_size}, "graphs keep what they put out: logits would be gigabytes"
    assert built.residency._pool.bytes_in_use == 0, "what kernels were compiled with has left"
    for count in (1, 3, 7):
        for prompt, answer in zip(prompts, ask(built, prompts[:count], max_tokens=16), strict=False):
            check_answer(model, prompt, answer)
    assert set(capture.replays) >= {1, 4, 8}
    assert capture.captured == 12


def test_a_graph_serves_other_adapters_than_those_it_was_captured_with(
    save_model: Any,
    tiny_config: Any,
    start_engine: Any,
    ask: Any,
    make_adapters: Any,
    monkeypatch: pytest.MonkeyPatch,
    request: Any,
) -> None:
    _, folder = save_model(tiny_config(LlamaConfig))
    ranks = [4, 16, 8]
    first, second, third = make_adapters(ranks)
    prompts = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
    batches: list[list[str | None]] = [
        [first, None, first],
        [second, third, None],
        [None, None, None],
        [third, second, first],
    ]
    options = {"max_num_seqs": 4, "max_loras": 3, "max_lora_rank": 16}
    plain = start_engine(folder, **options)
    expected = [answer for adapters in batches for answer in ask(plain, prompts, adapters, max_tokens=3)]
    capture = request.getfixturevalue("capture")
    graphed = start_engine(folder, **options)
    captured = capture.captured
    found = [answer for adapters in batches for answer in ask(graphed, prompts, adapters, max_tokens=3)]
    for answer, wanted in zip(found, expected, strict=True):
        assert answer.tokens == wanted.tokens
        assert answer.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)
    assert capture.captured == captured, "nothing was captured anew"
    assert len(capture.replays) > len(batches)


def test_an_adapter_that_brings_new_tensors_gets_graphs_that_see_them(
    capture: FakeCapture, save_model: Any, tiny_config: Any, start_engine: Any, ask: Any, make_adapters: Any
) -> None:
    """Embedding, head and DoRA have no memory before an adapter touches them. No step waits for a capture."""
    _, folder = save_model(tiny_config(LlamaConfig))
    built = start_engine(folder, max_num_seqs=2, max_loras=2)
    (digest,) = make_adapters([4])
    expected = ask(built, [[5, 6, 7]], [digest], max_tokens=3)[0].tokens
    captured = capture.captured
    pool = built.residency._pool

    def asked() -> int:
        """How many steps were replayed."""
        before = len(capture.replays)
        assert ask(built, [[5, 6, 7]], [digest], max_tokens=3)[0].tokens == expected
        return len(capture.replays) - before

    for new in range(1, 4):
        pool._layout += 1000
        assert asked() == 0
        ask(built, [[5, 6, 7]], [None], max_tokens=3)
        assert capture.captured == captured + 2 * (new - 1), "those without adapters do not care"
        for _ in range(3):
            built.use_idle_moment()
        assert capture.captured == captured + 2 * new, "once for the prompt and once for the size that were missed"
        assert asked() == 3
    pool._layout -= 1000
    assert asked() == 3, "a layout that comes back finds its graphs"
    pool._layout -= 2000
    assert asked() == 0, "only a few are kept"


def test_steps_that_read_prompts_are_replayed_and_say_what_the_model_says(
    capture: FakeCapture,
    save_model: Any,
    tiny_config: Any,
    start_engine: Any,
    ask: Any,
    check_answer: Any,
    store: ArtifactStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Chunks alone, beside decodes, and the tails of prompts that are cached; base and adapter in one step."""
    model, folder = save_model(tiny_config(LlamaConfig))
    oracle = save_adapter(folder, tmp_path / "lora", KINDS["all_linear"])
    digest = store.add(tmp_path / "lora").digest
    monkeypatch.setattr("multiflora_engine.execution.device_side.mixed_sizes", lambda most: [4, 12])
    built = start_engine(folder, max_num_seqs=3, max_loras=2, max_num_batched_tokens=12)
    steps: Counter[tuple[bool, bool]] = Counter()
    begin = built.device_side.executor.begin

    def counted(arrays: StepArrays) -> Any:
        before = len(capture.replays)
        begun = begin(arrays)
        steps[arrays.is_decode, len(capture.replays) > before] += 1
        return begun

    monkeypatch.setattr(built.device_side.executor, "begin", counted)
    prompts = [[5 + i for i in range(30)], [7, 8, 9], [10 + i for i in range(9)]]
    adapters = [None, digest, digest]
    for _ in range(2):  # the second time most is cached
        answers = ask(built, prompts, adapters, max_tokens=4)
        for prompt, adapter, answer in zip(prompts, adapters, answers, strict=True):
            check_answer(model if adapter is None else oracle, prompt, answer)
    assert steps[False, True] >= 6, "chunks of 12, and tails"
    assert not steps[False, False] + steps[True, False], "no step ran kernel by kernel"
    (scored,) = ask(built, prompts[:1], max_tokens=2, prompt_logprobs=0)
    check_answer(model, prompts[0], scored)
    assert steps[False, False] >= 3, "the logits of whole prompts are no graph's"


def decode_arrays(size: int, runs: AdapterRuns) -> StepArrays:
    """Sequences in blocks of 16 of their own, the first with one token, each other with one more."""
    numbers = np.arange(size)
    return StepArrays(
        token_ids=5 + numbers,
        token_sources=None,
        positions=numbers,
        kv_slots=16 * numbers + numbers,
        query_starts=np.arange(size + 1, dtype=np.int32),
        context_lens=(1 + numbers).astype(np.int32),
        block_tables=numbers.astype(np.int32)[:, None],
        shortest=1,
        longest=1,
        adapter_runs=runs,
        logit_rows=None,
        logit_runs=runs,
        sample_rows=None,
        sample_runs=runs,
        prompt_slices=[],
        pooled_rows=[],
        is_decode=True,
    )


def test_where_no_moment_is_idle_graphs_are_captured_one_by_one() -> None:
    now = [100.0]
    captured: list[int] = []

    def capture(work: Callable[[], torch.Tensor]) -> Graph:
        output = work()
        captured.append(len(output))
        return Graph(lambda: None, output)

    device = torch.device("cpu")
    layout = [0]
    graphs = DecodeGraphs(
        capture,
        lambda batch: torch.zeros(len(batch.token_ids), 4),
        Staging(device),
        TokenFeedback(8, device),
        lambda: layout[0],
        sizes=[1, 2, 4],
        mixed=[8],
        max_blocks=1,
        max_segments=2,
        device=device,
        clock=lambda: now[0],
    )
    graphs.capture_all(lambda done, total: None)
    captured.clear()
    layout[0] = 1

    def step(size: int, *, adapter: bool = True) -> bool:
        runs = AdapterRuns([0, size], [0]) if adapter else AdapterRuns([size], [])
        return graphs.run(decode_arrays(size, runs)) is not None

    assert [step(1), step(2), step(2, adapter=False)] == [False, False, True]
    now[0] += 4.9
    assert [step(1), step(4)] == [False, False]
    now[0] += 0.2
    assert [step(2), step(1), step(2)] == [True, False, True], "one at a time"
    now[0] += 5.0
    assert [step(1), step(4)] == [True, False]
    assert captured == [2, 1]
    graphs.capture_wanted()
    graphs.capture_wanted()
    assert captured == [2, 1, 4]
    assert step(4)
    graphs.forget()
    assert [step(2, adapter=False), step(2)] == [True, False], "all requests would miss the base's"


def test_adapters_with_matrices_of_their_own_leave_the_graphs_and_those_with_biases_do_not(
    capture: FakeCapture,
    save_model: Any,
    tiny_config: Any,
    start_engine: Any,
    ask: Any,
    check_answer: Any,
    store: ArtifactStore,
    tmp_path: Path,
) -> None:
    model, folder = save_model(tiny_config(LlamaConfig))
    oracles: dict[str | None, Any] = {None: model}
    for kind in ("own_both", "token_rows", "lora_bias"):
        oracle = save_adapter(folder, tmp_path / kind, KINDS[kind])
        oracles[store.add(tmp_path / kind).digest] = oracle
    _, own, rows, biased = oracles
    built = start_engine(folder, max_num_seqs=4, max_loras=4)
    # From here on all are on the device, so that the sequences of a batch step together.
    ask(built, [[5, 6]] * 3, [own, biased, rows], max_tokens=1)
    ask(built, [[5, 6]] * 2, [biased, None], max_tokens=3)
    built.use_idle_moment()  # the table of biases is new to the graphs
    for adapters, is_graphed in (([own, None, biased, rows], False), ([biased, None], True), ([rows], False)):
        capture.replays.clear()
        prompts = [[5, 6, 7], [120, 9], [10, 11, 12, 13], [100, 103]][: len(adapters)]
        answers = ask(built, prompts, adapters, max_tokens=4)
        for adapter, prompt, answer in zip(adapters, prompts, answers, strict=True):
            check_answer(oracles[adapter], prompt, answer)
        assert bool(capture.replays) == is_graphed


@pytest.mark.parametrize("dtype", ["auto", "int8"])
def test_groups_are_weighed_by_what_the_cache_holds(
    dtype: str,
    capture: FakeCapture,
    save_model: Any,
    tiny_config: Any,
    start_engine: Any,
    ask: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: set[int] = set()

    def weigh(tables: object, lengths: object, block_size: int, heads: AttentionHeads, _: object) -> None:
        sizes.add(2 * heads.kv_heads * heads.entry_bytes * block_size)

    monkeypatch.setattr("multiflora_engine.execution.executor.shared_groups", weigh)
    _, folder = save_model(tiny_config(LlamaConfig))
    built = start_engine(folder, kv_cache_dtype=dtype)
    ask(built, [[5, 6, 7]], max_tokens=3)
    cache = built.device_side.cache
    assert sizes == {cache.keys[0][0].nbytes + cache.values[0][0].nbytes}


def test_sequences_with_common_blocks_replay_as_groups(
    capture: FakeCapture,
    save_model: Any,
    tiny_config: Any,
    start_engine: Any,
    ask: Any,
    check_answer: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two documents, asked about in turns: each is one group, whose members are neighbours in the batch."""
    free = CascadeCosts(reread_rate=1e30, extra_seconds=-1.0)
    monkeypatch.setattr("multiflora_engine.execution.executor.CPU_COSTS", free)
    seen: list[list[list[int]]] = []

    def plan(starts: torch.Tensor, lengths: torch.Tensor, groups: torch.Tensor, heads: object) -> None:
        seen.append(groups.tolist())

    monkeypatch.setattr("multiflora_engine.models.decoder.plan_cascade", plan)
    model, folder = save_model(tiny_config(LlamaConfig))
    built = start_engine(folder, max_num_seqs=9, block_size=4)
    documents = [[5 + i for i in range(9)], [40 + i for i in range(21)]]
    prompts = [documents[i % 2] + [100 + i] for i in range(9)]
    for prompt, answer in zip(prompts, ask(built, prompts, max_tokens=6), strict=True):
        check_answer(model, prompt, answer)
    members = {tuple(sorted(groups[1], reverse=True)[:3]) for groups in seen}
    assert (5, 4, 0) in members
    assert {shared for groups in seen for shared in groups[2]} >= {0, 8, 20}
