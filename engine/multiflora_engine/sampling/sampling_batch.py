"""What each sequence wants of the sampling ops, and the arrays in which the rows of one step tell them.

Knows no logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from multiflora_engine.core.transfers import Staging
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.sampling.token_counts import SeenTokens
from multiflora_kernels.sampling import ops

# All weights are equal long before; an infinite float32 would bring excluded tokens back as NaN.
_HOTTEST = 1e30


@dataclass(slots=True)
class SequenceSampling:
    """What one sequence wants, worked out once. Filled by the sampler when it first sees the sequence."""

    params: SamplingParams
    stream: int
    """The sequence's index in its request: candidates with one seed draw different numbers."""
    seed: int
    """The request's, or one of the engine's own, made of the request's id."""
    is_random: bool
    """Whether a token is drawn; otherwise the most likely one is taken."""
    stops: list[int]
    """Tokens that min_tokens holds back until the output is long enough."""
    bad_words: list[list[int]]
    """Token sequences that the output must not contain."""
    is_penalised: bool
    seen: SeenTokens | None
    """Prompt and output as penalties count them, kept up by `penalties`; None without penalties, and where the device
    counts (DeviceCounts)."""
    allowed: npt.NDArray[np.int32] | None
    """[ceil(V / 32)] the bits of allowed_token_ids; None: all tokens."""
    has_grammar: bool
    is_masked: bool = field(init=False)
    """Whether some tokens are excluded by a bitmask."""
    is_edited: bool = field(init=False)
    """Whether logits change before the choice; rows that are not edited are never copied."""
    needs_output: bool = field(init=False)
    """Whether the choice depends on tokens of the output that the host must know."""

    def __post_init__(self) -> None:
        self.is_masked = self.has_grammar or self.allowed is not None
        biased = self.stops or self.bad_words or self.params.logit_bias
        self.is_edited = bool(self.is_masked or biased or self.is_penalised)
        self.needs_output = self.has_grammar or self.seen is not None or any(len(word) > 1 for word in self.bad_words)


class Row(NamedTuple):
    """One row of a step's logits. Filled by the sampler."""

    sampling: SequenceSampling
    output: list[int]
    """The sequence's output as far as the host knows it."""
    length: int
    """The output's true length: one more than `output` has while the device alone knows the last token."""


class RandomRows(NamedTuple):
    """Arguments of `ops.sample` after the logits. Filled by `random_rows`.

    Arrays, or tensors on the device once `SamplingBatch.on_device` has sent them; so in the classes below.
    """

    rows: Any
    """[R] int64, where the logits of each row stand."""
    temperature: Any
    """[R] float32, above 0."""
    top_k: Any
    """[R] int64 in 1..V; V: off."""
    top_p: Any
    """[R] float32 in (0, 1]; 1: off."""
    min_p: Any
    """[R] float32 in [0, 1]; 0: off."""
    uniform: Any
    """[R] float64 in [0, 1), the number that decides."""


class Masks(NamedTuple):
    """Arguments of `ops.apply_bitmask_`. Filled by `masks`."""

    rows: Any
    """[R] int64, distinct."""
    bits: Any
    """[R, ceil(V / 32)] int32, set where a token stays."""


class Bias(NamedTuple):
    """Arguments of `ops.bias_`, one entry for each changed logit. Filled by `bias`."""

    rows: Any
    """[E] int64."""
    ids: Any
    """[E] int64, tokens; no pair of row and token twice."""
    values: Any
    """[E] float32, what is added; -inf excludes the token."""


class Penalties(NamedTuple):
    """Arguments of `ops.penalize_`, one entry for each distinct token of a row's prompt and output. Filled by
    `penalties`."""

    rows: Any
    """[P] int64."""
    ids: Any
    """[P] int64, tokens."""
    counts: Any
    """[P] float32, how often the token stands in the output."""
    repetition: Any
    """[P] float32, the row's repetition_penalty."""
    frequency: Any
    """[P] float32, the row's frequency_penalty."""
    presence: Any
    """[P] float32, the row's presence_penalty."""


class CountedPenalties(NamedTuple):
    """Penalties of rows whose tokens the device counts, and what it must be told of them first. Filled by
    `DeviceCounts.penalties`."""

    rows: Any
    """[P] int64."""
    seen_rows: Any
    """[P] int64, distinct: of the counts."""
    repetition: Any
    """[P] float32, and the next two."""
    frequency: Any
    presence: Any
    reset: Any
    """[N] int64: rows of the counts that are another sequence's now, or counted what was dropped."""
    entry_rows: Any
    """[E] int64, and the next two: for each distinct token of these sequences' texts."""
    ids: Any
    values: Any
    """Twice its occurrences in the output, one more where it stands in the prompt."""


class RowIndices(NamedTuple):
    """Some rows of the logits. Filled by the sampler."""

    indices: Any
    """[R] int64, ascending."""


@dataclass(frozen=True, slots=True)
class LogitEdits:
    """What changes logits before the choice, and how the edited rows choose. Filled by the sampler.

    The rows inside masks, bias, penalties and random count within `rows`: edits work on a copy of these rows alone.
    """

    rows: RowIndices
    """The edited rows among all rows of the step."""
    masks: Masks | None
    """What grammars and allowed_token_ids leave; None where neither is asked for."""
    bias: Bias | None
    """logit_bias, bad words and min_tokens; None where nothing is added."""
    penalties: Penalties | None
    """None where no row has any, or the device counts."""
    counted: CountedPenalties | None
    """The same where it does."""
    random: RandomRows | None
    """The edited rows that are drawn; in the others the largest logit wins."""


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """What a step's ops need to know, as arrays, or as tensors on the device. Filled by the sampler."""

    num_greedy: int
    """Rows in which the model's largest logit wins as it is."""
    direct: RandomRows | None
    """Rows drawn from the model's own logits; None without any."""
    edits: LogitEdits | None
    """The remaining rows; None without any."""
    wanted: RowIndices | None
    """Rows with log-probabilities; None if that is all or none."""

    def on_device(self, staging: Staging) -> SamplingBatch:
        """The same as tensors, in one copy: a launch of its own for each small array would cost more than the ops."""
        edits = self.edits
        groups: list[tuple[Any, ...] | None] = [self.direct, self.wanted]
        if edits is not None:
            groups += [edits.rows, edits.masks, edits.bias, edits.penalties, edits.counted, edits.random]
        tensors = iter(staging.upload([array for group in groups if group is not None for array in group]))
        direct, wanted = _filled(self.direct, tensors), _filled(self.wanted, tensors)
        if edits is not None:
            edits = LogitEdits(
                RowIndices(next(tensors)),
                _filled(edits.masks, tensors),
                _filled(edits.bias, tensors),
                _filled(edits.penalties, tensors),
                _filled(edits.counted, tensors),
                _filled(edits.random, tensors),
            )
        return SamplingBatch(self.num_greedy, direct, edits, wanted)


Group = TypeVar("Group", RandomRows, Masks, Bias, Penalties, CountedPenalties, RowIndices)


def _filled(group: Group | None, tensors: Iterator[Tensor]) -> Group | None:
    """The group with its next tensors."""
    return None if group is None else type(group)._make(islice(tensors, len(group)))


def token_bits(token_ids: Items[int], vocab_size: int) -> npt.NDArray[np.int32]:
    """[ceil(V / 32)] int32: bit v % 32 of word v // 32 is set for each of token_ids."""
    flags = np.zeros(-(-vocab_size // 32) * 32, dtype=np.uint8)
    flags[list(token_ids)] = 1
    return np.packbits(flags, bitorder="little").view(np.int32)


def random_rows(rows: Items[Row], places: Items[int], vocab_size: int) -> RandomRows | None:
    """places: where the rows' logits stand. None if there are none, as below."""
    if not rows:
        return None
    params = [row.sampling.params for row in rows]
    # A row's draw follows from these three alone, so a preempted or rebatched sequence draws the same tokens again.
    keys = ([row.sampling.seed for row in rows], [row.sampling.stream for row in rows], [row.length for row in rows])
    return RandomRows(
        rows=np.array(places, dtype=np.int64),
        temperature=np.array([min(p.temperature, _HOTTEST) for p in params], dtype=np.float32),
        top_k=np.array([min(p.top_k, vocab_size) if p.top_k > 0 else vocab_size for p in params], dtype=np.int64),
        top_p=np.array([p.top_p for p in params], dtype=np.float32),
        min_p=np.array([p.min_p for p in params], dtype=np.float32),
        uniform=ops.uniforms(*(np.array(key, dtype=np.uint64) for key in keys)),
    )


def masks(bits: Mapping[int, npt.NDArray[np.int32]]) -> Masks | None:
    """bits: by row."""
    return Masks(np.array(list(bits), dtype=np.int64), np.stack(list(bits.values()))) if bits else None


def bias(rows: Items[Row], may_end: Items[bool]) -> Bias | None:
    """logit_bias, and -inf for what is held back: stop tokens below min_tokens, the last tokens of bad words."""
    places, ids, values = list[int](), list[int](), list[float]()
    for place, (row, ends) in enumerate(zip(rows, may_end, strict=True)):
        # One entry for each token: what excludes a token replaces the client's bias for it.
        changes = dict(row.sampling.params.logit_bias or {})
        changes |= dict.fromkeys(_bad_tokens(row), -np.inf)
        if not ends:
            changes |= dict.fromkeys(row.sampling.stops, -np.inf)
        places += [place] * len(changes)
        ids += changes
        values += changes.values()
    if not ids:
        return None
    return Bias(np.array(places, np.int64), np.array(ids, np.int64), np.array(values, np.float32))


def _bad_tokens(row: Row) -> list[int]:
    """Tokens that would complete a bad word now."""
    return [
        word[-1] for word in row.sampling.bad_words if len(word) == 1 or row.output[1 - len(word) :] == word[:-1]
    ]  # fmt: skip


def penalties(rows: Items[Row]) -> Penalties | None:
    """One entry for each token that a penalised row has seen."""
    penalised = [(place, row, row.sampling.seen) for place, row in enumerate(rows) if row.sampling.seen is not None]
    if not penalised:
        return None
    # Only what was added since the last step is counted; a long prompt is never read again.
    for _, row, seen in penalised:
        seen.extend_to(row.output)
    lengths = np.array([len(seen) for _, _, seen in penalised], dtype=np.int64)
    scalars = penalty_scalars([row for _, row, _ in penalised])
    return Penalties(
        np.repeat(np.array([place for place, _, _ in penalised], dtype=np.int64), lengths),
        np.concatenate([seen.ids for _, _, seen in penalised]),
        np.concatenate([seen.counts for _, _, seen in penalised]),
        *(np.repeat(scalar, lengths) for scalar in scalars),
    )


def penalty_scalars(rows: Items[Row]) -> list[npt.NDArray[np.float32]]:
    """Repetition, frequency and presence penalties, each [P]."""
    params = [row.sampling.params for row in rows]
    return [
        np.array([getattr(p, name) for p in params], dtype=np.float32)
        for name in ("repetition_penalty", "frequency_penalty", "presence_penalty")
    ]
