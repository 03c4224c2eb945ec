"""Sampling's Triton kernels against the plain definitions in sampling.py: same cuts, same ties, same tokens."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from multiflora_kernels.sampling import draw_triton as sample_triton
from multiflora_kernels.sampling import logits_triton as sampling_triton
from multiflora_kernels.sampling import ops as sampling

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
VOCABULARIES = [1, 33, 131, 300]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks for small vocabularies, and lists longer than a block."""
    monkeypatch.setattr(sample_triton, "_BLOCK", 64)
    monkeypatch.setattr(sample_triton, "_LOGPROBS_BLOCK", 64)
    monkeypatch.setattr(sampling_triton, "_BLOCK", 64)


def _logits(rows: int, vocab: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(rows, vocab) * 3).to(dtype)


def _odd_rows(vocab: int) -> Tensor:
    """Rows without a finite maximum, with one candidate, all alike, and a usual one."""
    logits = _logits(7, vocab)
    logits[0, vocab // 2], logits[1, -1] = torch.nan, torch.inf
    logits[2] = -torch.inf
    logits[3] = -torch.inf
    logits[3, -1] = -5.0
    logits[4] = 0.0
    logits[5, ::3] = -torch.inf
    return logits


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_greedy(kernel_device: torch.device, vocab: int) -> None:
    logits = _odd_rows(vocab)
    found = sampling_triton.greedy_triton(logits.to(kernel_device))
    assert torch.equal(found.cpu(), sampling.greedy_reference(logits))
    logits = torch.zeros(2, vocab)
    logits[1, [vocab // 3, vocab - 1]] = 1.0
    assert sampling_triton.greedy_triton(logits.to(kernel_device)).tolist() == [0, vocab // 3]


@pytest.mark.parametrize("dtype", DTYPES)
def test_greedy_in_all_dtypes_and_of_a_view(kernel_device: torch.device, dtype: torch.dtype) -> None:
    logits = _logits(5, 200, dtype)
    found = sampling_triton.greedy_triton(logits.to(kernel_device)[1:4, 3:190])
    assert found.tolist() == logits[1:4, 3:190].float().numpy().argmax(-1).tolist()


def test_no_rows_at_all(kernel_device: torch.device) -> None:
    logits, nothing = torch.empty(0, 50, device=kernel_device), torch.empty(0, device=kernel_device)
    ids = nothing.long()
    assert sampling_triton.greedy_triton(logits).shape == (0,)
    assert sample_triton.sample_triton(logits, ids, nothing, ids, nothing, nothing, nothing.double()).shape == (0,)
    assert sample_triton.logprobs_triton(logits, ids, 3)[2].shape == (0, 3)
    assert sampling_triton.gather_tokens_triton(ids, ids.int(), ids).shape == (0,)
    sampling_triton.bias_triton_(logits, ids, ids, nothing)
    seen = torch.zeros(1, logits.shape[1], dtype=torch.int32, device=kernel_device)
    sampling_triton.penalize_seen_triton_(logits, ids, seen, ids, nothing, nothing, nothing)
    sampling_triton.count_seen_triton_(seen, ids, ids)
    sampling_triton.apply_bitmask_triton_(logits, ids, torch.empty(0, 2, dtype=torch.int32, device=kernel_device))


def test_edits(kernel_device: torch.device) -> None:
    logits, entries = _logits(9, 77), 300
    pairs = torch.randperm(9 * 77)[:entries]
    rows, ids, values = pairs // 77, pairs % 77, torch.randn(entries)
    values[::7] = -torch.inf
    biased, found = logits.clone(), logits.to(kernel_device, copy=True)
    biased[rows, ids] += values
    sampling_triton.bias_triton_(found, *(argument.to(kernel_device) for argument in (rows, ids, values)))
    torch.testing.assert_close(found.cpu(), biased, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_penalties_of_counted_tokens(kernel_device: torch.device, vocab: int) -> None:
    """Of tokens of the prompt alone, of the output alone, of both; counted on by a step with one token missing."""
    logits, rows, seen_rows = _logits(4, vocab), torch.tensor([3, 0, 1]), torch.tensor([2, 4, 0])
    seen = torch.randint(6, (5, vocab), dtype=torch.int32) * (torch.rand(5, vocab) < 0.3)
    tokens = torch.tensor([vocab - 1, -1, int(seen[0].argmax())])
    scalars = torch.rand(3) + 0.5, torch.randn(3), torch.randn(3)
    expected, found = logits.clone(), logits.to(kernel_device, copy=True)
    sampling.penalize_seen_reference_(expected, rows, seen, seen_rows, *scalars)
    there = [tensor.to(kernel_device, copy=True) for tensor in (rows, seen, seen_rows, *scalars)]
    sampling_triton.penalize_seen_triton_(found, *there)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(found.cpu()[2], logits[2])
    counted = seen.clone()
    sampling.count_seen_reference_(counted, seen_rows, tokens)
    sampling_triton.count_seen_triton_(there[1], there[2], tokens.to(kernel_device))
    assert torch.equal(there[1].cpu(), counted)
    assert (counted - seen).sum() == 4


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_bitmask(kernel_device: torch.device, vocab: int) -> None:
    logits, rows = _logits(5, vocab), torch.tensor([3, 0])
    bitmask = torch.randint(-(2**31), 2**31 - 1, (2, -(-vocab // 32)), dtype=torch.int32)
    expected, found = logits.clone(), logits.to(kernel_device, copy=True)
    sampling.apply_bitmask_reference_(expected, rows, bitmask)
    sampling_triton.apply_bitmask_triton_(found, rows.to(kernel_device), bitmask.to(kernel_device))
    assert torch.equal(found.cpu(), expected)


def test_tokens_are_fed_back(kernel_device: torch.device) -> None:
    token_ids, sources = torch.arange(300), torch.randint(-1, 4, (300,), dtype=torch.int32)
    last_tokens = torch.tensor([11, -1, 13, 14])
    expected = [
        token if source < 0 else [11, 0, 13, 14][source]
        for token, source in zip(token_ids.tolist(), sources.tolist(), strict=True)
    ]
    assert sampling.gather_tokens(token_ids, sources, last_tokens).tolist() == expected
    found = sampling_triton.gather_tokens_triton(*(t.to(kernel_device) for t in (token_ids, sources, last_tokens)))
    assert found.tolist() == expected


def _cases(vocab: int) -> list[tuple[float, int, float, float, float]]:
    """(temperature, top_k, top_p, min_p, uniform)"""
    cuts = itertools.product((1, 3, min(70, vocab), vocab), (0.05, 0.5, 0.95, 1.0), (0.0, 0.1, 1.0))
    return [
        (0.3 + 0.2 * (i % 6), min(k, vocab), p, m, (i * 0.618 + 0.01) % 1) for i, (k, p, m) in enumerate(cuts)
    ]  # fmt: skip


def _columns(cases: list[tuple[float, int, float, float, float]]) -> list[Tensor]:
    temperature, top_k, top_p, min_p, uniform = zip(*cases, strict=True)
    return [
        torch.tensor(temperature),
        torch.tensor(top_k),
        torch.tensor(top_p),
        torch.tensor(min_p),
        torch.tensor(uniform, dtype=torch.float64),
    ]


def _assert_same_draws(
    logits: Tensor, rows: Tensor, columns: list[Tensor], device: torch.device, border: float = 2e-6
) -> None:
    """Token for token, unless the uniform number is as good as on the border of two (within that share of the mass)."""
    found = sample_triton.sample_triton(*(t.to(device) for t in (logits, rows, *columns))).cpu()
    expected = sampling.sample(logits, rows, *columns)
    for r in (found != expected).nonzero()[:, 0].tolist():
        row, *cut = (column[r : r + 1] for column in columns[:4])
        weights = sampling.weights(logits[rows[r]][None].float(), row)
        ends = sampling.truncate(weights, *cut).double().cumsum(-1)[0]
        low, high = sorted((int(found[r]), int(expected[r])))
        target = columns[4][r] * ends[-1]
        assert low >= 0
        assert weights[0, found[r]] > 0
        assert (ends[low:high] - target).abs().max() < border * ends[-1]


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_sample_draws_what_the_definition_draws(kernel_device: torch.device, vocab: int) -> None:
    cases = _cases(vocab)
    columns = _columns(cases if kernel_device.type == "cuda" else cases[vocab % 6 :: 6])
    logits = _logits(9, vocab)
    _assert_same_draws(logits, torch.arange(len(columns[0])) % 9, columns, kernel_device)


def test_top_p_keeps_the_token_that_just_belongs_to_it(kernel_device: torch.device) -> None:
    """What bounds the cut before it is found must not be above it, however little lies between."""
    logits = torch.tensor([[0.5, 0.4995, 0.0005 - 1e-5, 1e-5]]).log()
    columns = _columns([(1.0, 4, 0.9998, 0.0, 0.99995), (1.0, 4, 0.999, 0.0, 0.99995)])
    rows = torch.zeros(2, dtype=torch.int64)
    found = sample_triton.sample_triton(*(t.to(kernel_device) for t in (logits, rows, *columns)))
    assert found.tolist() == sampling.sample(logits, rows, *columns).tolist() == [2, 1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_sample_in_all_dtypes(kernel_device: torch.device, dtype: torch.dtype) -> None:
    logits = _logits(4, 300, dtype)
    columns = _columns([(0.8, 300, 1.0, 0.0, 0.3), (0.8, 20, 0.9, 0.01, 0.9), (1.5, 300, 0.7, 0.0, 0.0)])
    rows = torch.tensor([3, 1, 0])
    found = sample_triton.sample_triton(*(t.to(kernel_device) for t in (logits, rows, *columns)))
    assert torch.equal(found.cpu(), sampling.sample(logits.float(), rows, *columns))


@pytest.mark.parametrize("cut", [(131, 1.0, 0.0), (131, 0.6, 0.0), (9, 0.9, 0.2)])
def test_sample_takes_only_what_can_be_taken(kernel_device: torch.device, cut: tuple[int, float, float]) -> None:
    logits = _odd_rows(131)
    rows = torch.arange(7)
    columns = _columns([(1.0, *cut, uniform) for uniform in (0.0, 0.5, 0.5, 0.0, 0.3, 0.9, 1 - 2.0**-52)])
    found = sample_triton.sample_triton(*(t.to(kernel_device) for t in (logits, rows, *columns))).cpu()
    assert found[:4].tolist() == [-1, -1, -1, 130]
    assert torch.isfinite(logits[rows, found][found >= 0]).all()
    _assert_same_draws(logits, rows, columns, kernel_device)


@pytest.mark.parametrize(("top_k", "top_p"), [(2, 1.0), (200, 0.5)])
def test_ties_at_the_cut_stay_together(kernel_device: torch.device, top_k: int, top_p: float) -> None:
    """One token of weight 1, 99 of weight 1/2: whatever cuts among them keeps all, and what is below goes."""
    weights = torch.full((200,), 0.1)
    weights[::2], weights[77] = 0.5, 1.0
    draws = 400 if kernel_device.type == "cuda" else 6
    columns = _columns([(1.0, top_k, top_p, 0.0, (i + 0.5) / draws) for i in range(draws)])
    rows = torch.zeros(draws, dtype=torch.int64)
    found = sample_triton.sample_triton(*(t.to(kernel_device) for t in (weights.log()[None], rows, *columns)))
    allowed = {*range(0, 200, 2), 77}
    assert set(found.tolist()) <= allowed
    assert len(set(found.tolist())) == (len(allowed) if draws == 400 else draws)


def test_flat_rows_make_lists_of_many_blocks(kernel_device: torch.device) -> None:
    logits = -torch.arange(310)[None] * 1e-6
    columns = _columns([(1.0, 310, 0.99, 0.0, 0.9999999), (1.0, 200, 0.5, 0.0, 0.75)])
    _assert_same_draws(logits.flip(1), torch.zeros(2, dtype=torch.int64), columns, kernel_device)


def test_a_row_has_the_same_token_in_every_batch_and_run(kernel_device: torch.device) -> None:
    logits = _logits(4, 131).to(kernel_device)
    columns = [t.to(kernel_device) for t in _columns([(0.9, 40 + i, 0.9, 0.01, 0.2 * i) for i in range(4)])]
    crowd = sample_triton.sample_triton(logits, torch.arange(4, device=kernel_device), *columns)
    for i in (0, 3):
        row = torch.tensor([i], device=kernel_device)
        alone = sample_triton.sample_triton(logits, row, *(column[i : i + 1] for column in columns))
        assert alone.tolist() == crowd[i : i + 1].tolist()


@pytest.mark.parametrize("num_top", [0, 1, 20])
@pytest.mark.parametrize("vocab", [33, 131])
def test_logprobs(kernel_device: torch.device, vocab: int, num_top: int) -> None:
    logits = _logits(4, vocab)
    ids = torch.tensor([0, vocab - 1, 7, int(logits[3].argmax())])
    found = sampling.Logprobs(*(t.cpu() for t in sample_triton.logprobs_triton(
        logits.to(kernel_device), ids.to(kernel_device), num_top
    )))  # fmt: skip
    expected = sampling.logprobs(logits, ids, num_top)
    assert torch.equal(found.ranks, expected.ranks)
    assert torch.equal(found.top_ids, expected.top_ids)
    torch.testing.assert_close(found.chosen, expected.chosen, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.top, expected.top, atol=1e-5, rtol=0)
    if num_top:
        assert found.top[3, 0] == found.chosen[3]


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # infinity less infinity, as on a GPU
def test_logprobs_name_ties_in_id_order_and_survive_odd_rows(kernel_device: torch.device) -> None:
    logits = torch.zeros(2, 131)
    logits[:, [9, 60, 100]] = 2.5
    logits[1, 3:] = -torch.inf
    ids = torch.tensor([60, 1], device=kernel_device)
    _, ranks, top_ids, top = sample_triton.logprobs_triton(logits.to(kernel_device), ids, 5)
    assert ranks.tolist() == [1, 1]
    assert top_ids.tolist() == [[9, 60, 100, 0, 1], [0, 1, 2, 3, 4]]
    assert top[1].tolist()[3:] == [-torch.inf, -torch.inf]
    odd = _odd_rows(131)[:3].to(kernel_device)
    top_ids = sample_triton.logprobs_triton(odd, torch.zeros(3, dtype=torch.int64, device=kernel_device), 5)[2]
    assert ((top_ids >= 0) & (top_ids < 131)).all()


@pytest.mark.gpu
@pytest.mark.parametrize("vocab", [32000, 128256, 151936])
def test_large_rows_on_a_gpu(monkeypatch: pytest.MonkeyPatch, vocab: int) -> None:
    monkeypatch.undo()  # the real block sizes
    logits = _logits(256, vocab)
    rows = torch.randperm(256)
    cases = _cases(vocab)
    columns = _columns([cases[i % len(cases)] for i in range(256)])
    columns[4] = torch.from_numpy(np.random.default_rng().random(256))
    on_device = logits.cuda()
    assert torch.equal(sampling.greedy(on_device).cpu(), sampling.greedy(logits))
    # Top-p's own border may lie a token further, too, of which thousands weigh this little.
    _assert_same_draws(logits, rows, columns, torch.device("cuda"), border=5e-5)
    found = sampling.logprobs(on_device, rows.cuda(), 20)
    expected = sampling.logprobs(logits.double(), rows, 20)
    assert torch.equal(found.ranks.cpu(), expected.ranks)
    torch.testing.assert_close(found.top.cpu().double(), expected.top, atol=2e-5, rtol=0)
    torch.testing.assert_close(found.chosen.cpu().double(), expected.chosen, atol=2e-5, rtol=0)


@pytest.mark.gpu
def test_no_op_waits_for_the_device() -> None:
    logits = _logits(8, 1000).cuda()
    rows, columns = torch.arange(8).cuda(), [t.cuda() for t in _columns(_cases(1000)[:8])]
    bits = torch.zeros(8, 32, dtype=torch.int32).cuda()
    ones, seen = torch.ones(8).cuda(), torch.ones(8, 1000, dtype=torch.int32).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        tokens = sampling.greedy(logits)
        sampling.logprobs(logits, tokens, 5)
        sampling.sample(logits, rows, *columns)
        sampling.bias_(logits, rows, rows, ones)
        sampling.penalize_seen_(logits, rows, seen, rows, ones, ones, ones)
        sampling.count_seen_(seen, rows, tokens)
        sampling.apply_bitmask_(logits, rows, bits)
        sampling.gather_tokens(rows, rows.int(), tokens)
    finally:
        torch.cuda.set_sync_debug_mode("default")
