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
from multiflora_engine.sampling.grammar_masks import GrammarMasks
from multiflora_engine.sampling.sampling_inputs import (
    Edits,
    Inputs,
    Places,
    Row,
    Wish,
    bias,
    draws,
    masks,
    penalties,
    token_bits,
)
from multiflora_engine.sampling.token_counts import SeenTokens
from multiflora_kernels.sampling import ops as sampling

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

    tokens: [L] int64, -1 where none can be chosen. logprobs: of the rows in `wanted`, with as many alternatives as
    `num_top` says. failures: where a missing token has a better explanation than unusable logits.
    """

    def __init__(
        self,
        tokens: Tensor,
        wanted: list[int],
        num_top: list[int],
        logprobs: sampling.Logprobs | None,
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
            chosen = [max(tokens[i], 0) for i in self._wanted]
            rows = _position_logprobs(chosen, sampling.Logprobs(*columns), self._num_top)
            logprobs = dict(zip(self._wanted, rows, strict=True))
        return [
            SampledToken(token, logprobs.get(i))
            if token >= 0
            else SampledToken(0, failure=self._failures.get(i, _UNUSABLE))
            for i, token in enumerate(tokens)
        ]


class PromptLogprobs:
    """Log-probabilities of a stretch of a prompt, on their way to the host; num_top alternatives for each token."""

    def __init__(self, token_ids: list[int], num_top: int, logprobs: sampling.Logprobs) -> None:
        self._token_ids = token_ids
        self._num_top = num_top
        self._readback = Readback(logprobs)

    def collect(self) -> list[PositionLogprobs]:
        """Waits until the device has got so far."""
        counts = [self._num_top] * len(self._token_ids)
        return _position_logprobs(self._token_ids, sampling.Logprobs(*self._readback.wait()), counts)


class Sampler:
    """eos_token_ids: held back by min_tokens unless ignore_eos. seed: of requests that bring none. grammars: of the
    sequences that have one."""

    def __init__(
        self,
        vocab_size: int,
        eos_token_ids: Collection[int] = (),
        seed: int = 0,
        grammars: GrammarMasks | None = None,
    ) -> None:
        self._vocab_size = vocab_size
        self._eos_token_ids = sorted(token for token in eos_token_ids if token < vocab_size)
        self._seed = seed
        self._grammars = grammars
        self._staging: Staging | None = None
        self._wishes: WeakKeyDictionary[Sequence, Wish] = WeakKeyDictionary()

    def needs_last_token(self, sequence: Sequence) -> bool:
        """Whether the host must know all of the output so far to choose the next token."""
        wish = self._wish(sequence)
        return wish.has_grammar or wish.seen is not None or any(len(word) > 1 for word in wish.bad_words)

    def prepare(self, sequences: Rows[Sequence]) -> None:
        """Before the forward pass that these will be sampled after: what needs no logits begins beside it."""
        if self._grammars is not None:
            self._grammars.prepare(sequences)

    def launch(self, logits: Tensor, sequences: Rows[Sequence], lengths: Rows[int]) -> SampledStep:
        """One token per row of logits [L, V] (see `Decoder.logits`), which stay as they are.

        Row l belongs to sequences[l], whose output has lengths[l] tokens (the host may not know the last one, unless
        `needs_last_token`).

        The draw of a row depends on its seed, its index within the request and its output length alone, so that a
        preempted sequence goes on as if nothing had happened. A row without a choosable token fails alone. The host
        never waits for the device: what the ops need to know goes there in one copy, behind the forward pass.
        """
        rows = [
            Row(self._wish(sequence), sequence.output_token_ids, length)
            for sequence, length in zip(sequences, lengths, strict=True)
        ]
        inputs, failures = self._inputs(rows, sequences)
        if inputs.direct or inputs.edits or inputs.wanted:
            inputs = inputs.on_device(self._stages(logits))
        tokens = _choose(logits, inputs)
        wanted = _wanted(rows)
        num_top = [rows[i].wish.params.logprobs or 0 for i in wanted]
        logprobs = _logprobs(logits, tokens, inputs.wanted, max(num_top)) if wanted else None
        return SampledStep(tokens, wanted, num_top, logprobs, failures)

    def prompt_logprobs(self, logits: Tensor, token_ids: list[int], num_top: int) -> PromptLogprobs:
        """Log-probabilities of prompt tokens: logits[t] of [T, V] predict token_ids[t]. Raw, as for sampled tokens."""
        places = self._stages(logits).upload_one(np.array(token_ids, dtype=np.int64))
        return PromptLogprobs(token_ids, num_top, sampling.logprobs(logits, places, min(num_top, logits.shape[1])))

    def _stages(self, logits: Tensor) -> Staging:
        self._staging = self._staging or Staging(logits.device)
        return self._staging

    def _wish(self, sequence: Sequence) -> Wish:
        wish = self._wishes.get(sequence)
        if wish is None:
            wish = self._wishes[sequence] = self._make_wish(sequence)
        return wish

    def _make_wish(self, sequence: Sequence) -> Wish:
        params = sequence.params
        penalised = params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0
        eos = [] if params.ignore_eos else self._eos_token_ids
        allowed = params.allowed_token_ids
        return Wish(
            params=params,
            stream=sequence.index,
            seed=params.seed % 2**64 if params.seed is not None else self._own_seed(sequence.request_id),
            is_random=not params.is_greedy and params.top_k != 1,
            stops=[*eos, *params.stop_token_ids] if params.min_tokens else [],
            bad_words=sequence.bad_word_ids,
            seen=SeenTokens(sequence.prompt_token_ids) if penalised else None,
            allowed=None if allowed is None else token_bits(allowed, self._vocab_size),
            has_grammar=sequence.grammar is not None,
        )

    def _own_seed(self, request_id: str) -> int:
        digest = hashlib.blake2b(f"{self._seed}/{request_id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little")

    def _inputs(self, rows: list[Row], sequences: Rows[Sequence]) -> tuple[Inputs, _Failures]:
        """What the device must know, in host memory, and what it means where grammars leave nothing to choose."""
        edited = [i for i, row in enumerate(rows) if row.wish.is_edited]
        direct = [i for i, row in enumerate(rows) if row.wish.is_random and not row.wish.is_edited]
        edits, failures = self._edits(edited, rows, sequences) if edited else (None, {})
        wanted = _wanted(rows)
        inputs = Inputs(
            num_greedy=len(rows) - len(edited) - len(direct),
            direct=draws([rows[i] for i in direct], direct, self._vocab_size),
            edits=edits,
            wanted=Places(np.array(wanted)) if 0 < len(wanted) < len(rows) else None,
        )
        return inputs, failures

    def _edits(self, places: list[int], all_rows: list[Row], sequences: Rows[Sequence]) -> tuple[Edits, _Failures]:
        rows = [all_rows[i] for i in places]
        drawn = [i for i, row in enumerate(rows) if row.wish.is_random]
        bits, over, failures = self._masks(rows, [sequences[i] for i in places])
        # A text that can only end now may do so below min_tokens: end tokens fill up what is missing.
        may_end = [i in over or row.length >= row.wish.params.min_tokens for i, row in enumerate(rows)]
        edits = Edits(
            places=Places(np.array(places)),
            masks=masks(bits),
            bias=bias(rows, may_end),
            penalties=penalties(rows),
            draws=draws([rows[i] for i in drawn], drawn, self._vocab_size),
        )
        return edits, {places[i]: failure for i, failure in failures.items()}

    def _masks(
        self, rows: list[Row], sequences: list[Sequence]
    ) -> tuple[dict[int, npt.NDArray[np.int32]], set[int], _Failures]:
        """By row, the bits of allowed_token_ids and grammars; the rows where a grammar allows nothing but an end token;
        and for each row with a grammar what it means if that leaves nothing to choose."""
        bits = {i: row.wish.allowed for i, row in enumerate(rows) if row.wish.allowed is not None}
        read = [i for i, row in enumerate(rows) if row.wish.has_grammar]
        if not read:
            return bits, set(), {}
        assert self._grammars is not None, "the scheduler refuses grammars that nobody can read"
        found = self._grammars.masks([sequences[i] for i in read])
        failures: _Failures = dict.fromkeys(read, _NO_WAY_ON)
        for i, row_bits in zip(read, found.bits, strict=True):
            bits[i] = row_bits & bits[i] if i in bits else row_bits
        for row, error in found.errors.items():
            bits[read[row]] = token_bits((), self._vocab_size)
            failures[read[row]] = EngineFailure("invalid_grammar", error)
        over = {i for i, is_over in zip(read, found.is_over.tolist(), strict=True) if is_over}
        return bits, over, failures


def _wanted(rows: list[Row]) -> list[int]:
    """The rows that want log-probabilities."""
    return [i for i, row in enumerate(rows) if row.wish.params.logprobs is not None]


def _choose(logits: Tensor, inputs: Inputs) -> Tensor:
    """Tokens [L] of logits [L, V], which stay as they are."""
    if inputs.num_greedy:
        tokens = sampling.greedy(logits)
    else:
        tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    if inputs.direct is not None:
        tokens[inputs.direct.rows] = sampling.sample(logits, *inputs.direct)
    if inputs.edits is not None:
        places = inputs.edits.places.rows
        tokens[places] = _choose_edited(logits[places].float(), inputs.edits)
    return tokens


def _choose_edited(logits: Tensor, edits: Edits) -> Tensor:
    """logits [E, V] float32 are this call's own. vLLM's order: masks, bad words, min_tokens, logit bias, penalties."""
    if edits.masks is not None:
        sampling.apply_bitmask_(logits, *edits.masks)
    if edits.bias is not None:
        sampling.bias_(logits, *edits.bias)
    if edits.penalties is not None:
        sampling.penalize_(logits, *edits.penalties)
    tokens = sampling.greedy(logits)
    if edits.draws is not None:
        tokens[edits.draws.rows] = sampling.sample(logits, *edits.draws)
    return tokens


def _logprobs(logits: Tensor, tokens: Tensor, wanted: Places | None, num_top: int) -> sampling.Logprobs:
    if wanted is not None:
        logits, tokens = logits[wanted.rows], tokens[wanted.rows]
    return sampling.logprobs(logits, tokens.clamp(min=0), min(num_top, logits.shape[1]))


def _position_logprobs(token_ids: list[int], result: sampling.Logprobs, counts: list[int]) -> list[PositionLogprobs]:
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
