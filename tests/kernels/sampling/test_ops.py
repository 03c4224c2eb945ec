"""Sampling ops against plain definitions: exact choices, statistics with fixed seeds, rows that do not meet."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from multiflora_kernels.sampling import ops as sampling

V = 131  # prime: never a multiple of a block


def _logits(rows: int, vocab: int = V, seed: int = 0) -> Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def _keys(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint64)


def _chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    """In standard deviations from the mean of a chi-square with that many degrees of freedom."""
    freedom = len(expected) - 1
    statistic = float((((observed - expected) ** 2) / expected).sum())
    return (statistic - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("op", [sampling.apply_bitmask_, sampling.apply_bitmask_reference_])
@pytest.mark.parametrize("vocab", [1, 31, 32, 33, V])
def test_bitmasks_exclude_tokens_of_their_rows_alone(op: object, vocab: int) -> None:
    logits = _logits(4, vocab)
    allowed = np.random.default_rng(vocab).random((2, vocab)) < 0.4
    padded = np.pad(allowed, ((0, 0), (0, -vocab % 32)), constant_values=True)
    bitmask = torch.from_numpy(np.packbits(padded, axis=1, bitorder="little").view(np.int32))
    expected = logits.clone()
    for row, bits in zip((3, 1), allowed, strict=True):
        expected[row, torch.from_numpy(~bits)] = -torch.inf
    op(logits, torch.tensor([3, 1]), bitmask)
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("op", [sampling.greedy, sampling.greedy_reference])
def test_greedy_takes_the_lowest_of_equal_maxima_and_marks_rows_without_one(op: object) -> None:
    logits = _logits(7)
    logits[0, [5, 9, 130]] = 100.0
    logits[1, 3] = torch.nan
    logits[2, 3] = torch.inf
    logits[3] = -torch.inf
    logits[4] = -torch.inf
    logits[4, 77] = -3.0
    ids = op(logits).tolist()  # type: ignore[operator]
    assert ids[:5] == [5, -1, -1, -1, 77]
    assert ids[5:] == logits[5:].argmax(-1).tolist()


def test_penalties_follow_their_definition() -> None:
    logits = _logits(2)
    prompt, output = [1, 2, 2, 130], [2, 7, 7, 7]
    expected = logits.clone()
    for token in set(prompt + output):
        x = expected[1, token].item()
        x = x / 1.3 if x > 0 else x * 1.3
        expected[1, token] = x - 0.5 * output.count(token) - 0.25 * (token in output)
    ids = sorted(set(prompt + output))
    counts = [float(output.count(token)) for token in ids]
    rows, *scalars = (torch.full((len(ids),), value) for value in (1, 1.3, 0.5, 0.25))
    sampling.penalize_(logits, rows, torch.tensor(ids), torch.tensor(counts), *scalars)
    torch.testing.assert_close(logits, expected)
    assert torch.equal(logits[0], _logits(2)[0])


def test_uniforms_are_uniform_along_every_axis_and_repeat() -> None:
    zero = np.zeros(40_000, dtype=np.uint64)
    axes = [(_keys(40_000), zero, zero), (zero, _keys(40_000), zero), (zero, zero, _keys(40_000))]
    drawn = [sampling.uniforms(*axis) for axis in axes]
    for numbers in drawn:
        assert numbers.min() >= 0
        assert numbers.max() < 1
        observed = np.histogram(numbers, bins=100, range=(0, 1))[0]
        assert abs(_chi_square(observed, np.full(100, 400.0))) < 4
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(drawn[0], drawn[2])[0, 1]) < 0.02
    np.testing.assert_array_equal(
        sampling.uniforms(*axes[2])[123:124], sampling.uniforms(zero[:1], zero[:1], _keys(124)[123:])
    )


def _splitmix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def test_uniforms_are_the_same_on_every_machine() -> None:
    assert _splitmix(1234567) == 6457827717110365317  # the published first output for this seed
    golden = 0x9E3779B97F4A7C15
    for seed, stream, position in [(42, 1, 7), (2**64 - 1, 0, 0)]:
        bits = _splitmix(_splitmix(_splitmix(seed) + stream * golden) + position * golden) >> 12
        numbers = sampling.uniforms(*(np.array([value], dtype=np.uint64) for value in (seed, stream, position)))
        assert numbers.tolist() == [bits * 2.0**-52]


@pytest.mark.parametrize("vocab", [1, 2, 64, 65, V, 1000])
def test_draw_is_the_inverse_of_the_cumulative_distribution(vocab: int) -> None:
    weights = _logits(50, vocab).exp()
    weights[torch.rand(50, vocab, generator=torch.Generator().manual_seed(1)) < 0.5] = 0
    weights[:, vocab // 2] = 1.0
    uniform = torch.rand(50, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    uniform[:2] = torch.tensor([0.0, 1 - 2.0**-52])
    cdf = weights.double().cumsum(-1)
    expected = (cdf <= uniform[:, None] * cdf[:, -1:]).sum(-1)
    ids = sampling.draw(weights, uniform)
    assert torch.equal(ids[2:], expected[2:])
    assert (weights.gather(1, ids[:, None]) > 0).all()


def test_draws_have_the_distribution_of_the_weights() -> None:
    weights = sampling.weights(_logits(1, 20) / 2, torch.tensor([0.8])).expand(50_000, 20).contiguous()
    uniform = torch.from_numpy(sampling.uniforms(np.full(50_000, 3, np.uint64), _keys(50_000) * 0, _keys(50_000)))
    observed = torch.bincount(sampling.draw(weights, uniform), minlength=20).numpy()
    expected = torch.softmax(_logits(1, 20)[0].double() / 2 / 0.8, -1).numpy() * 50_000
    assert abs(_chi_square(observed, expected)) < 4


def _kept_by_definition(row: list[float], top_k: int, top_p: float, min_p: float) -> set[int]:
    """Sort, then walk: the definitions of the three truncations, one after the other, on distinct weights."""
    order = sorted((i for i in range(len(row)) if row[i] >= min_p * max(row)), key=lambda i: -row[i])[:top_k]
    total, mass, kept = sum(row[i] for i in order), 0.0, set()
    for i in order:
        if mass >= top_p * total:
            break
        kept.add(i)
        mass += row[i]
    return kept


@pytest.mark.parametrize("floors", [sampling._floors_cpu, sampling.floors_reference])
def test_truncation_follows_its_definition(floors: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_floors_cpu", floors)
    cases = [(k, p, m) for k in (1, 5, 50, V) for p in (0.05, 0.5, 0.95, 1.0) for m in (0.0, 0.1, 1.0)]
    top_k, top_p, min_p = (torch.tensor(column) for column in zip(*cases, strict=True))
    weights = sampling.weights(_logits(len(cases)), torch.ones(len(cases)))
    kept = sampling.truncate(weights, top_k, top_p, min_p)
    for row, (case, left) in enumerate(zip(cases, kept, strict=True)):
        ids = set(left.nonzero()[:, 0].tolist())
        assert ids == _kept_by_definition(weights[row].double().tolist(), *case), case
        assert torch.equal(left[left > 0], weights[row][left > 0])


@pytest.mark.parametrize("floors", [sampling._floors_cpu, sampling.floors_reference])
def test_ties_at_the_cut_stay_together(floors: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_floors_cpu", floors)
    weights = torch.tensor([[0.5, 1.0, 0.5, 0.1, 0.5]])
    kept = sampling.truncate(weights, torch.tensor([2]), torch.tensor([1.0]), torch.tensor([0.0]))
    assert kept.tolist() == [[0.5, 1.0, 0.5, 0.0, 0.5]]


def test_a_nearly_flat_distribution_keeps_its_nucleus_whole() -> None:
    weights = torch.ones(1, 997) - torch.arange(997)[None] * 1e-6
    kept = sampling.truncate(weights, torch.tensor([997]), torch.tensor([0.999]), torch.tensor([0.0]))
    assert int((kept > 0).sum()) == len(_kept_by_definition(weights[0].double().tolist(), 997, 0.999, 0.0))


def test_rows_do_not_see_each_other() -> None:
    logits, many = _logits(1, seed=9), 17
    batch = torch.cat([_logits(many - 1), logits])
    parameters = torch.tensor([40]), torch.tensor([0.9]), torch.tensor([0.01])
    uniform = torch.tensor([0.37], dtype=torch.float64)
    alone = sampling.truncate(sampling.weights(logits, torch.tensor([0.7])), *parameters)
    crowd = sampling.truncate(
        sampling.weights(batch, torch.full((many,), 0.7)), *(value.repeat(many) for value in parameters)
    )
    assert torch.equal(alone[0], crowd[-1])
    assert sampling.draw(alone, uniform)[0] == sampling.draw(crowd, uniform.repeat(many))[-1]


@pytest.mark.parametrize("num_top", [0, 1, 5, V])
def test_logprobs_are_the_log_softmax_with_ranks(num_top: int) -> None:
    logits = _logits(6)
    ids = torch.tensor([0, 130, 7, int(logits[3].argmax()), int(logits[4].argmin()), 64])
    result = sampling.logprobs(logits, ids, num_top)
    reference = logits.double().log_softmax(-1)
    torch.testing.assert_close(result.chosen.double(), reference.gather(1, ids[:, None])[:, 0], atol=1e-5, rtol=0)
    order = reference.argsort(-1, descending=True)
    assert result.ranks.tolist() == [order[row].tolist().index(token) + 1 for row, token in enumerate(ids.tolist())]
    assert torch.equal(result.top_ids, order[:, :num_top])
    torch.testing.assert_close(result.top.double(), reference.gather(1, order[:, :num_top]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_top", [1, 2, 4])
def test_the_first_of_the_top_is_the_greedy_choice_even_among_ties(num_top: int) -> None:
    logits = torch.zeros(3, V)
    logits[:, [9, 60, 100]] = 2.5
    result = sampling.logprobs(logits, sampling.greedy(logits), num_top)
    assert result.top_ids[:, 0].tolist() == [9, 9, 9]
    assert torch.equal(result.top[:, 0], result.chosen)
    assert result.ranks.tolist() == [1, 1, 1]
    assert all(len(set(row)) == num_top for row in result.top_ids.tolist())
