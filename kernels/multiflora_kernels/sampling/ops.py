"""From logits [L, V] to tokens: greedy choice, edits (bias, penalties, bitmasks), random choice, logprobs.

Knows tensors only; which row wants what is the engine's sampler's business. Every op treats each row alone, so a row's
result never depends on its neighbours. Logits are float32; on a GPU those that no op changes may be of half precision,
and no op makes the host wait.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from multiflora_kernels.sampling.draw_triton import logprobs_triton, sample_triton
from multiflora_kernels.sampling.logits_triton import (
    apply_bitmask_triton_,
    bias_triton_,
    count_seen_triton_,
    gather_tokens_triton,
    greedy_triton,
    penalize_seen_triton_,
)

_BLOCK = 64  # width of the first level of the two-level search in `draw`
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


# ---- greedy


def greedy(logits: Tensor) -> Tensor:
    """Semantics: y[l] = the lowest id of the largest logit; -1 where that is not finite (a NaN, a +inf, all -inf).

    Returns [L] int64.
    """
    if logits.device.type == "cuda":
        return greedy_triton(logits)
    return _greedy_cpu(logits) if logits.device.type == "cpu" else greedy_reference(logits)


def greedy_reference(logits: Tensor) -> Tensor:
    best, ids = logits.max(dim=-1)  # the first of equal maxima; NaN counts as the largest
    return torch.where(best.isfinite(), ids, -1)


def _greedy_cpu(logits: Tensor) -> Tensor:
    """numpy's argmax is vectorised, torch's is not: about 15 times faster, same ties, same NaN."""
    array = logits.numpy()
    ids = array.argmax(axis=-1)
    best = np.take_along_axis(array, ids[:, None], axis=-1)[:, 0]
    return torch.from_numpy(np.where(np.isfinite(best), ids, -1))


# ---- bias and penalties


def bias_(logits: Tensor, rows: Tensor, ids: Tensor, values: Tensor) -> None:
    """In place. Semantics: x[rows[e], ids[e]] += values[e], all [E]: int64, int64, float32; no pair of (row, id) twice.

    A value of -inf excludes a token.
    """
    if logits.device.type == "cuda":
        bias_triton_(logits, rows, ids, values)
    else:
        logits[rows, ids] += values


def penalize_(
    logits: Tensor, rows: Tensor, ids: Tensor, counts: Tensor, repetition: Tensor, frequency: Tensor, presence: Tensor
) -> None:
    """In place. Repetition penalty (CTRL, arXiv:1909.05858) over prompt and output, frequency and presence over output.

    One entry for each distinct token of a row's prompt and output, all [P]: rows and ids int64 say where; counts
    float32, its occurrences in the output; the row's three penalties float32. Work follows the tokens seen, not V.
    Semantics: x = x / r if x > 0 else x * r; y = x - frequency * counts - presence * (counts > 0).
    """
    x = logits[rows, ids]
    x = torch.where(x > 0, x / repetition, x * repetition)
    logits[rows, ids] = x - frequency * counts - presence * (counts > 0)


def penalize_seen_(
    logits: Tensor,
    rows: Tensor,
    seen: Tensor,
    seen_rows: Tensor,
    repetition: Tensor,
    frequency: Tensor,
    presence: Tensor,
) -> None:
    """In place: as `penalize_`, of counts that are kept where the logits are, so that the host need not know them.

    seen: [S, V] int32, of each token twice its occurrences in the output, one more where it stands in the prompt. Row
    rows[p] of the logits [L, V] has its counts in row seen_rows[p], all [P] int64; the row's three penalties [P]
    float32.
    """
    if logits.device.type == "cuda":
        penalize_seen_triton_(logits, rows, seen, seen_rows, repetition, frequency, presence)
    else:
        penalize_seen_reference_(logits, rows, seen, seen_rows, repetition, frequency, presence)


def penalize_seen_reference_(
    logits: Tensor,
    rows: Tensor,
    seen: Tensor,
    seen_rows: Tensor,
    repetition: Tensor,
    frequency: Tensor,
    presence: Tensor,
) -> None:
    state = seen[seen_rows]
    entries, ids = state.nonzero(as_tuple=True)
    counts = (state[entries, ids] >> 1).float()
    penalize_(logits, rows[entries], ids, counts, repetition[entries], frequency[entries], presence[entries])


def count_seen_(seen: Tensor, seen_rows: Tensor, tokens: Tensor) -> None:
    """In place: the outputs of these rows go on with these tokens. Semantics: seen[seen_rows[p], tokens[p]] += 2 where
    tokens[p] >= 0; seen as `penalize_seen_` takes it, both [P] int64, rows distinct."""
    if seen.device.type == "cuda":
        count_seen_triton_(seen, seen_rows, tokens)
    else:
        count_seen_reference_(seen, seen_rows, tokens)


def count_seen_reference_(seen: Tensor, seen_rows: Tensor, tokens: Tensor) -> None:
    chosen = tokens >= 0
    seen[seen_rows[chosen], tokens[chosen]] += 2


# ---- token bitmasks


def apply_bitmask_(logits: Tensor, rows: Tensor, bitmask: Tensor) -> None:
    """In place: excludes the tokens whose bits are clear.

    Semantics: x[rows[r], v] = -inf where bit v % 32 of bitmask[r, v // 32] is 0; other rows stay as they are.
    logits: [L, V] float32. rows: [R] int64, distinct. bitmask: [R, ceil(V / 32)] int32.
    """
    if logits.device.type == "cuda":
        apply_bitmask_triton_(logits, rows, bitmask)
    elif logits.device.type == "cpu":
        _apply_bitmask_cpu_(logits, rows, bitmask)
    else:
        apply_bitmask_reference_(logits, rows, bitmask)


def apply_bitmask_reference_(logits: Tensor, rows: Tensor, bitmask: Tensor) -> None:
    shifts = torch.arange(32, dtype=torch.int32, device=bitmask.device)
    bits = (bitmask[:, :, None] >> shifts & 1).flatten(1)[:, : logits.shape[1]]
    logits[rows] = logits[rows].masked_fill(bits == 0, -torch.inf)


def _apply_bitmask_cpu_(logits: Tensor, rows: Tensor, bitmask: Tensor) -> None:
    """Bit by bit in numpy, row by row: no [R, V] tensor of integers is made."""
    array, words = logits.numpy(), bitmask.contiguous().numpy().view(np.uint8)
    for row, mask in zip(rows.tolist(), words, strict=True):
        excluded = np.unpackbits(mask, count=array.shape[1], bitorder="little") == 0
        array[row, excluded] = -np.inf


# ---- random choice


def sample(
    logits: Tensor, rows: Tensor, temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor, uniform: Tensor
) -> Tensor:
    """Semantics: y[r] = draw(truncate(weights(logits[rows[r]], temperature[r]), ...), uniform[r]), see there; -1 where
    `greedy` is. rows: [R] int64; the rest as those take it, [R]. Returns [R] int64; logits stay as they are.

    All paths agree on the token, except where a number that decides (the uniform one, top_p of the mass, min_p) falls
    within about 1e-6 of the border between two tokens, so that float32's rounding in the weights decides.
    """
    if logits.device.type == "cuda":
        return sample_triton(logits, rows, temperature, top_k, top_p, min_p, uniform)
    logits = logits[rows]
    best = greedy(logits)
    usable = best >= 0
    if not usable.all():
        logits = torch.where(usable[:, None], logits, 0.0)
    w = weights(logits, temperature)
    cut = ((top_k < w.shape[1]) | (top_p < 1) | (min_p > 0)).nonzero()[:, 0]
    if len(cut):
        w[cut] = truncate(w[cut], top_k[cut], top_p[cut], min_p[cut])
    return torch.where(usable, draw(w, uniform), -1)


def uniforms(
    seeds: npt.NDArray[np.uint64], streams: npt.NDArray[np.uint64], positions: npt.NDArray[np.uint64]
) -> npt.NDArray[np.float64]:
    """One number in [0, 1) for each (seed, stream, position), by counter instead of state: three rounds of splitmix64
    (Steele et al., OOPSLA 2014). All [R]. The same triple gives the same number on every machine and in every batch.
    """
    bits = _mix(_mix(_mix(seeds) + streams * _GOLDEN) + positions * _GOLDEN)
    return (bits >> np.uint64(12)).astype(np.float64) * 2.0**-52


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def weights(logits: Tensor, temperature: Tensor) -> Tensor:
    """Unnormalised probabilities. Semantics: y = exp((x - max(x)) / temperature), so that the best token weighs 1.

    temperature: [L] float32, > 0. Rows need a finite maximum.
    """
    shifted = logits - logits.amax(dim=-1, keepdim=True)
    return shifted.div_(temperature[:, None]).exp_()


def truncate(weights: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Zero the weights that min-p, then top-k, then top-p (of what those two left) exclude.

    weights: [L, V] from `weights`. top_k: [L] int64 in 1..V (V: off). top_p: [L] float32 in (0, 1] (1: off).
    min_p: [L] float32 in [0, 1] (0: off). Tokens that tie with the last kept one are kept: the result does not depend
    on the order of a sort. Top-p: Holtzman et al., arXiv:1904.09751; min-p: Nguyen et al., arXiv:2407.01082.
    """
    floors = _floors_cpu if weights.device.type == "cpu" else floors_reference
    return torch.where(weights >= floors(weights, top_k, top_p, min_p)[:, None], weights, 0.0)


def floors_reference(weights: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """The smallest weight that stays, [L] float32."""
    ordered = weights.sort(dim=-1, descending=True).values
    floor = torch.maximum(ordered.gather(1, top_k[:, None] - 1), min_p[:, None])
    mass = torch.where(ordered >= floor, ordered, 0.0).cumsum(dim=-1, dtype=torch.float64)
    short = (mass < top_p[:, None].double() * mass[:, -1:]).sum(dim=-1, keepdim=True)
    nucleus = ordered.gather(1, short.clamp_(max=weights.shape[1] - 1))
    return torch.where(top_p[:, None] < 1, torch.maximum(floor, nucleus), floor)[:, 0]


def _floors_cpu(weights: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    rows = zip(weights.numpy(), top_k.tolist(), top_p.tolist(), min_p.tolist(), strict=True)
    return torch.tensor([_floor(row, k, p, m) for row, k, p, m in rows], dtype=torch.float32)


def _floor(row: npt.NDArray[np.float32], top_k: int, top_p: float, min_p: float) -> float:
    floor = min_p
    if top_k < row.size:
        floor = max(floor, float(np.partition(row, row.size - top_k)[row.size - top_k]))
    return floor if top_p >= 1 else _nucleus_floor(row[row >= np.float32(floor)], top_p)


def _nucleus_floor(kept: npt.NDArray[np.float32], top_p: float) -> float:
    """Sorts only the tokens above (1 - p) of the mean: together those below weigh less than 1 - p."""
    total = float(kept.sum(dtype=np.float64))
    candidates = np.sort(kept[kept >= np.float32((1 - top_p) * total / kept.size * 0.999)])[::-1]
    short = int(np.searchsorted(candidates.cumsum(dtype=np.float64), top_p * total))
    return float(candidates[min(short, candidates.size - 1)])


def draw(weights: Tensor, uniform: Tensor) -> Tensor:
    """Inverse-CDF draw in id order. Semantics: y[l] = min{i : w[l, 0] + ... + w[l, i] > uniform[l] * sum(w[l])}.

    weights: [L, V] float32 >= 0 with a positive sum. uniform: [L] float64 in [0, 1). Returns [L] int64, weight > 0.
    Two levels (blocks of 64, then inside one), so that the long cumulative sum is never made.
    """
    rows = torch.arange(weights.shape[0], device=weights.device)
    blocks = F.pad(weights, (0, -weights.shape[1] % _BLOCK)).view(weights.shape[0], -1, _BLOCK)
    mass = blocks.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    target = uniform * mass[:, -1]
    block = (mass <= target[:, None]).sum(dim=-1).clamp_(max=mass.shape[1] - 1)
    before = torch.where(block > 0, mass[rows, (block - 1).clamp_(min=0)], 0.0)
    inner = blocks[rows, block].cumsum(dim=-1, dtype=torch.float64)
    # The block's own sum may round below `target - before`; staying under its last value keeps the weight positive.
    rest = torch.minimum(target - before, inner[:, -1] * (1 - 2.0**-52))
    return block * _BLOCK + (inner <= rest[:, None]).sum(dim=-1).clamp_(max=_BLOCK - 1)


# ---- log-probabilities


class Logprobs(NamedTuple):
    """chosen, ranks: [L] (float32, int64; rank 1 is the most likely). top_ids, top: [L, K], best first."""

    chosen: Tensor
    ranks: Tensor
    top_ids: Tensor
    top: Tensor


def logprobs(logits: Tensor, token_ids: Tensor, num_top: int) -> Logprobs:
    """Log-softmax of the raw logits at token_ids [L] and at the num_top (0..V) most likely tokens.

    The first of the top is exactly `greedy`'s choice, and a token's rank is 1 + the number of strictly larger logits,
    so a greedy token always has rank 1 and the top log-probability, to the bit.
    """
    if logits.device.type == "cuda":
        return Logprobs(*logprobs_triton(logits, token_ids, num_top))
    norm = logits.logsumexp(dim=-1)
    own = logits.gather(1, token_ids[:, None])
    ranks = _count_larger(logits, own) + 1
    top, top_ids = _top(logits, num_top)
    return Logprobs(own[:, 0] - norm, ranks, top_ids, top - norm[:, None])


def _count_larger(logits: Tensor, value: Tensor) -> Tensor:
    if logits.device.type == "cpu":
        return torch.from_numpy(np.count_nonzero(logits.numpy() > value.numpy(), axis=-1))
    return (logits > value).sum(dim=-1)


def _top(logits: Tensor, num_top: int) -> tuple[Tensor, Tensor]:
    if num_top == 0:
        return logits[:, :0], torch.empty(logits.shape[0], 0, dtype=torch.int64, device=logits.device)
    first = greedy(logits).clamp_(min=0)[:, None]
    if num_top == 1:
        return logits.gather(1, first), first
    top, ids = logits.topk(num_top, dim=-1)
    ids = torch.where(ids == first, ids[:, :1], ids)  # topk breaks ties as it likes
    ids[:, :1] = first
    return top, ids


# ---- feedback


def gather_tokens(token_ids: Tensor, sources: Tensor, last_tokens: Tensor) -> Tensor:
    """The next step's input where the host does not know all of it yet.

    token_ids: [T] int64; sources: [T] int32; last_tokens: [R] int64, a step's sampled tokens.
    Semantics: y[t] = max(last_tokens[sources[t]], 0) where sources[t] >= 0, else token_ids[t]. (A row that found no
    token fails once the host knows; until then it needs an id that exists.) Fit for CUDA graphs.
    """
    if token_ids.device.type == "cuda":
        return gather_tokens_triton(token_ids, sources, last_tokens)
    fed_back = last_tokens[sources.clamp(min=0).long()].clamp(min=0)
    return torch.where(sources >= 0, fed_back, token_ids)
