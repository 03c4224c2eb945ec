"""Chooses the next token of every sequence in a step: all of SamplingParams, row by row independent of each other.

In two parts: `launch` gives the device its work without waiting for it, `SampledStep.collect` reads what came out.

Knows nothing of scheduling, devices' caches or text; what it remembers per sequence can be rebuilt from the sequence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from collections.abc import Sequence as Rows
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from multiflora_engine.core.sequence import Sequence
from multiflora_engine.core.step import SampledToken
from multiflora_engine.core.transfers import Readback, Staging
from multiflora_engine.protocol.requests import EngineFailure, PositionLogprobs, TokenLogprob
from multiflora_engine.sampling.device_counts import DeviceCounts
from multiflora_engine.sampling.grammar_masks import GrammarMasks
from multiflora_engine.sampling.sampling_batch import (
    LogitEdits,
    Row,
    RowIndices,
    SamplingBatch,
    SequenceSampling,
    bias,
    masks,
    penalties,
    random_rows,
    token_bits,
)
from multiflora_engine.sampling.token_counts import SeenTokens
from multiflora_kernels.sampling import ops

_UNUSABLE = EngineFailure(
    "internal_error", "The model's logits leave no token to choose (not finite, or all tokens excluded)."
)
_NO_WAY_ON = EngineFailure(
    "invalid_grammar",
    "No token is left that the grammar and the request's other parameters (allowed_token_ids, bad_words, logit_bias, "
    "stop_token_ids with min_tokens) all allow.",
)

_Failures = dict[int, EngineFailure]
"""By row: what it means when no token can be chosen there, where that is known."""


class SampledStep:
    """One token per row, on the logits' device and on its way to the host.

    tokens: [L] int64, -1 where none can be chosen; they stay on the device for the step that follows.
    wanted, num_top: the rows with log-probabilities, and how many alternatives each of them wants.
    logprobs: of the rows in `wanted`; None without any.
    failures: where a missing token has a better explanation than unusable logits.
    """

    def __init__(
        self,
        tokens: Tensor,
        wanted: list[int],
        num_top: list[int],
        logprobs: ops.Logprobs | None,
        failures: _Failures,
    ) -> None:
        self.tokens = tokens
        self._failures = failures
        self._wanted = wanted
        self._num_top = num_top
        self._readback = Readback([tokens, *(logprobs or ())])

    def collect(self) -> list[SampledToken]:
        """Waits until the device has got so far."""
        tokens_on_host, *columns = self._readback.wait()
        tokens = tokens_on_host.tolist()
        logprobs: dict[int, PositionLogprobs] = {}
        if columns:
            # The log-probability of a token that could not be chosen (-1) was taken of token 0; nothing reads it.
            chosen = [max(tokens[i], 0) for i in self._wanted]
            rows = _position_logprobs(chosen, ops.Logprobs(*columns), self._num_top)
            logprobs = dict(zip(self._wanted, rows, strict=True))
        return [
            SampledToken(token, logprobs.get(i))
            if token >= 0
            else SampledToken(0, failure=self._failures.get(i, _UNUSABLE))
            for i, token in enumerate(tokens)
        ]


class PromptLogprobs:
    """Log-probabilities of a stretch of a prompt, on their way to the host; num_top alternatives for each token."""

    def __init__(self, token_ids: list[int], num_top: int, logprobs: ops.Logprobs) -> None:
        self._token_ids = token_ids
        self._num_top = num_top
        self._readback = Readback(logprobs)

    def collect(self) -> list[PositionLogprobs]:
        """Waits until the device has got so far."""
        counts = [self._num_top] * len(self._token_ids)
        return _position_logprobs(self._token_ids, ops.Logprobs(*self._readback.wait()), counts)


class Sampler:
    """eos_token_ids: held back by min_tokens unless ignore_eos. seed: of requests that bring none. grammars: of the
    sequences that have one. counts: keeps on the device what penalised sequences have seen; None: the host tells it in
    each step, which needs to know it."""

    def __init__(
        self,
        vocab_size: int,
        eos_token_ids: Collection[int] = (),
        seed: int = 0,
        grammars: GrammarMasks | None = None,
        counts: DeviceCounts | None = None,
    ) -> None:
        self._vocab_size = vocab_size
        self._eos_token_ids = sorted(token for token in eos_token_ids if token < vocab_size)
        self._seed = seed
        self._grammars = grammars
        self._counts = counts
        self._staging: Staging | None = None
        self._sampling: WeakKeyDictionary[Sequence, SequenceSampling] = WeakKeyDictionary()

    def needs_output(self, sequence: Sequence) -> bool:
        """Whether the host must know all of the output so far to choose the next token."""
        return self._of(sequence).needs_output

    def waits(self, sequence: Sequence, length: int) -> bool:
        """Whether the token that the output of `length` tokens goes on with cannot be chosen yet: the host must know
        the ones before first."""
        if length <= len(sequence.output_token_ids):
            return False
        sampling = self._of(sequence)
        lacks_counts = sampling.is_penalised and self._counts is not None and not self._counts.knows(sequence, length)
        return sampling.needs_output or lacks_counts

    def prepare(self, sequences: Rows[Sequence]) -> None:
        """Before the forward pass that these will be sampled after: what needs no logits begins beside it."""
        if self._grammars is not None:
            self._grammars.prepare(sequences)

    def launch(self, logits: Tensor, sequences: Rows[Sequence], lengths: Rows[int]) -> SampledStep:
        """One token per row of logits [L, V] (see `Decoder.logits`), which stay as they are.

        Row l belongs to sequences[l], whose output has lengths[l] tokens (the host may not know the last one, unless
        the choice `waits` for it).

        The draw of a row depends on its seed, its index within the request and its output length alone, so that a
        preempted sequence goes on as if nothing had happened. A row without a choosable token fails alone. The host
        never waits for the device: what the ops need to know goes there in one copy, behind the forward pass.
        """
        rows: list[Row] = []
        for sequence, length in zip(sequences, lengths, strict=True):
            rows.append(Row(self._of(sequence), sequence.output_token_ids, length))
        batch, failures = self._batch(rows, sequences)
        # A greedy batch, the plainest there is, has nothing to tell the device.
        if batch.direct or batch.edits or batch.wanted:
            batch = batch.on_device(self._stages(logits))
        tokens = _choose(logits, batch, self._counts)
        wanted = _wanted(rows)
        num_top = [rows[i].sampling.params.logprobs or 0 for i in wanted]
        logprobs = _logprobs(logits, tokens, batch.wanted, max(num_top)) if wanted else None
        return SampledStep(tokens, wanted, num_top, logprobs, failures)

    def prompt_logprobs(self, logits: Tensor, token_ids: list[int], num_top: int) -> PromptLogprobs:
        """Log-probabilities of prompt tokens: logits[t] of [T, V] predict token_ids[t]. Raw, as for sampled tokens."""
        places = self._stages(logits).upload_one(np.array(token_ids, dtype=np.int64))
        return PromptLogprobs(token_ids, num_top, ops.logprobs(logits, places, min(num_top, logits.shape[1])))

    def _stages(self, logits: Tensor) -> Staging:
        self._staging = self._staging or Staging(logits.device)
        return self._staging

    def _of(self, sequence: Sequence) -> SequenceSampling:
        return self._sampling.get(sequence) or self._new_sampling(sequence)

    def _new_sampling(self, sequence: Sequence) -> SequenceSampling:
        params = sequence.params
        penalised = bool(params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0)
        eos = [] if params.ignore_eos else self._eos_token_ids
        allowed = params.allowed_token_ids
        sampling = self._sampling[sequence] = SequenceSampling(
            params=params,
            stream=sequence.index,
            seed=params.seed % 2**64 if params.seed is not None else self._own_seed(sequence.request_id),
            # top_k of 1 is greedy choice by another name, and greedy rows are cheaper.
            is_random=not params.is_greedy and params.top_k != 1,
            stops=[*eos, *params.stop_token_ids] if params.min_tokens else [],
            bad_words=sequence.bad_word_ids,
            is_penalised=penalised,
            seen=SeenTokens(sequence.prompt_token_ids) if penalised and self._counts is None else None,
            allowed=None if allowed is None else token_bits(allowed, self._vocab_size),
            has_grammar=sequence.grammar is not None,
        )
        return sampling

    def _own_seed(self, request_id: str) -> int:
        # Of the id and not of a counter, so that an engine started anew with the same seed answers the same.
        digest = hashlib.blake2b(f"{self._seed}/{request_id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little")

    def _batch(self, rows: list[Row], sequences: Rows[Sequence]) -> tuple[SamplingBatch, _Failures]:
        """What the device must know, in host memory, and what it means where grammars leave nothing to choose."""
        edited = [i for i, row in enumerate(rows) if row.sampling.is_edited]
        direct = [i for i, row in enumerate(rows) if row.sampling.is_random and not row.sampling.is_edited]
        edits, failures = self._edits(edited, rows, sequences) if edited else (None, {})
        wanted = _wanted(rows)
        batch = SamplingBatch(
            num_greedy=len(rows) - len(edited) - len(direct),
            direct=random_rows([rows[i] for i in direct], direct, self._vocab_size) if direct else None,
            edits=edits,
            wanted=RowIndices(np.array(wanted)) if 0 < len(wanted) < len(rows) else None,
        )
        return batch, failures

    def _edits(self, places: list[int], all_rows: list[Row], sequences: Rows[Sequence]) -> tuple[LogitEdits, _Failures]:
        rows = [all_rows[i] for i in places]
        drawn = [i for i, row in enumerate(rows) if row.sampling.is_random]
        bits, over, failures = self._masks(rows, [sequences[i] for i in places])
        # A text that can only end now may do so below min_tokens: end tokens fill up what is missing.
        may_end = [i in over or row.length >= row.sampling.params.min_tokens for i, row in enumerate(rows)]
        edits = LogitEdits(
            rows=RowIndices(np.array(places)),
            masks=masks(bits),
            bias=bias(rows, may_end),
            penalties=penalties(rows),
            counted=None if self._counts is None else self._counts.penalties(rows, [sequences[i] for i in places]),
            random=random_rows([rows[i] for i in drawn], drawn, self._vocab_size),
        )
        return edits, {places[i]: failure for i, failure in failures.items()}

    def _masks(
        self, rows: list[Row], sequences: list[Sequence]
    ) -> tuple[dict[int, npt.NDArray[np.int32]], set[int], _Failures]:
        """By row, the bits of allowed_token_ids and grammars; the rows where a grammar allows nothing but an end token;
        and for each row with a grammar what it means if that leaves nothing to choose."""
        bits = {i: row.sampling.allowed for i, row in enumerate(rows) if row.sampling.allowed is not None}
        read = [i for i, row in enumerate(rows) if row.sampling.has_grammar]
        if not read:
            return bits, set(), {}
        assert self._grammars is not None, "the scheduler refuses grammars where there is no reader"
        found = self._grammars.masks([sequences[i] for i in read])
        failures: _Failures = dict.fromkeys(read, _NO_WAY_ON)
        for i, row_bits in zip(read, found.bits, strict=True):
            # Both masks hold: what the grammar allows and what the request allows.
            bits[i] = row_bits & bits[i] if i in bits else row_bits
        for row, error in found.errors.items():
            # Nothing is allowed, so that the row finds no token and fails alone, with the grammar's reason.
            bits[read[row]] = token_bits((), self._vocab_size)
            failures[read[row]] = EngineFailure("invalid_grammar", error)
        over = {i for i, is_over in zip(read, found.is_over.tolist(), strict=True) if is_over}
        return bits, over, failures


def _wanted(rows: list[Row]) -> list[int]:
    """The rows that want log-probabilities."""
    return [i for i, row in enumerate(rows) if row.sampling.params.logprobs is not None]


def _choose(logits: Tensor, batch: SamplingBatch, counts: DeviceCounts | None) -> Tensor:
    """Tokens [L] of logits [L, V], which stay as they are."""
    if batch.num_greedy:
        tokens = ops.greedy(logits)
    else:
        tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    if batch.direct is not None:
        tokens[batch.direct.rows] = ops.sample(logits, *batch.direct)
    if batch.edits is not None:
        places = batch.edits.rows.indices
        tokens[places] = _choose_edited(logits[places].float(), batch.edits, counts)
    return tokens


def _choose_edited(logits: Tensor, edits: LogitEdits, counts: DeviceCounts | None) -> Tensor:
    """logits [E, V] float32 are this call's own. vLLM's order: masks, bad words, min_tokens, logit bias, penalties."""
    if edits.masks is not None:
        ops.apply_bitmask_(logits, *edits.masks)
    if edits.bias is not None:
        ops.bias_(logits, *edits.bias)
    if edits.penalties is not None:
        ops.penalize_(logits, *edits.penalties)
    if counts is not None and edits.counted is not None:
        counts.penalize_(logits, edits.counted)
    tokens = ops.greedy(logits)
    if edits.random is not None:
        tokens[edits.random.rows] = ops.sample(logits, *edits.random)
    if counts is not None and edits.counted is not None:
        counts.add(tokens, edits.counted)
    return tokens


def _logprobs(logits: Tensor, tokens: Tensor, wanted: RowIndices | None, num_top: int) -> ops.Logprobs:
    if wanted is not None:
        logits, tokens = logits[wanted.indices], tokens[wanted.indices]
    return ops.logprobs(logits, tokens.clamp(min=0), min(num_top, logits.shape[1]))


def _position_logprobs(token_ids: list[int], result: ops.Logprobs, counts: list[int]) -> list[PositionLogprobs]:
    """One entry per row; counts[l] alternatives for row l."""
    columns = (
        token_ids,
        result.chosen.tolist(),
        result.ranks.tolist(),
        result.top_ids.tolist(),
        result.top.tolist(),
    )
    return [
        PositionLogprobs(
            TokenLogprob(token, logprob, rank),
            [TokenLogprob(t, value, r) for r, (t, value) in enumerate(zip(ids[:k], top[:k], strict=True), start=1)],
        )
        for token, logprob, rank, ids, top, k in zip(*columns, counts, strict=True)
    ]
