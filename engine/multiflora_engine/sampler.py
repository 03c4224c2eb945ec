"""Chooses the next token of every sequence in a step: all of SamplingParams, row by row independent of each other.

In two parts: `launch` gives the device its work without waiting for it, `SampledStep.collect` reads what came out.

Knows nothing of scheduling, devices' caches or text; what it remembers per sequence can be rebuilt from the sequence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from multiflora_engine.grammar_masks import GrammarMasks
from multiflora_engine.request import EngineFailure, PositionLogprobs, SamplingParams, TokenLogprob
from multiflora_engine.seen_tokens import SeenTokens
from multiflora_engine.sequence import Sequence
from multiflora_engine.staging import Readback
from multiflora_engine.step import SampledToken
from multiflora_kernels import sampling

_UNUSABLE = EngineFailure(
    "internal_error", "The model's logits leave no token to choose (not finite, or all tokens excluded)."
)
_NO_WAY_ON = EngineFailure(
    "invalid_grammar",
    "No token is left that the grammar and the request's other parameters (allowed_token_ids, bad_words, logit_bias, "
    "stop_token_ids with min_tokens) all allow.",
)
# All weights are equal long before; an infinite float32 would bring excluded tokens back as NaN.
_HOTTEST = 1e30


@dataclass(slots=True)
class _Row:
    """What one sequence wants, worked out once. stops: what min_tokens holds back. seen: only under penalties."""

    params: SamplingParams
    stream: int
    seed: int
    random: bool
    stops: list[int]
    bad_words: list[list[int]]
    seen: SeenTokens | None
    edited: bool
    has_grammar: bool

    @property
    def is_plain(self) -> bool:
        """Whether the largest logit wins."""
        return not (self.random or self.edited or self.has_grammar or self.seen is not None)


_Output = tuple[_Row, list[int], int]
"""What a sequence wants, the output that the host knows, and the output's length."""

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
        self._eos_token_ids = sorted(token for token in eos_token_ids if token < vocab_size)
        self._seed = seed
        self._grammars = grammars
        self._rows: WeakKeyDictionary[Sequence, _Row] = WeakKeyDictionary()

    def needs_last_token(self, sequence: Sequence) -> bool:
        """Whether the host must know all of the output so far to choose the next token."""
        row = self._row(sequence)
        return sequence.grammar is not None or row.seen is not None or any(len(word) > 1 for word in row.bad_words)

    def prepare(self, sequences: Rows[Sequence]) -> None:
        """Before the forward pass that these will be sampled after: what needs no logits begins beside it."""
        if self._grammars is not None:
            self._grammars.prepare(sequences)

    def launch(self, logits: Tensor, sequences: Rows[Sequence], lengths: Rows[int]) -> SampledStep:
        """One token per row of logits [L, V] float32, which stay as they are; row l belongs to sequences[l], whose
        output has lengths[l] tokens (the host may not know the last one, unless `needs_last_token`).

        The draw of a row depends on its seed, its index within the request and its output length alone, so that a
        preempted sequence goes on as if nothing had happened. A row without a choosable token fails alone.
        """
        rows = [self._row(sequence) for sequence in sequences]
        tokens = sampling.greedy(logits)
        special = [i for i, row in enumerate(rows) if not row.is_plain]
        failures: _Failures = {}
        if special:
            places = torch.tensor(special, device=logits.device)
            chosen = logits[places]
            over, failed = self._mask_(chosen, [sequences[i] for i in special])
            tokens[places] = self._choose(
                chosen, [(rows[i], sequences[i].output_token_ids, lengths[i]) for i in special], over
            )
            failures = {special[i]: failure for i, failure in failed.items()}
        wanted = [i for i, row in enumerate(rows) if row.params.logprobs is not None]
        num_top = [rows[i].params.logprobs or 0 for i in wanted]
        logprobs = self._logprobs(logits, tokens, wanted, num_top) if wanted else None
        return SampledStep(tokens, wanted, num_top, logprobs, failures)

    def prompt_logprobs(self, logits: Tensor, token_ids: list[int], num_top: int) -> list[PositionLogprobs]:
        """Log-probabilities of prompt tokens: logits[t] of [T, V] predict token_ids[t]. Raw, as for sampled tokens."""
        places = torch.tensor(token_ids, device=logits.device)
        logprobs = sampling.logprobs(logits, places, min(num_top, logits.shape[1]))
        return _position_logprobs(token_ids, logprobs, [num_top] * len(token_ids))

    def _row(self, sequence: Sequence) -> _Row:
        row = self._rows.get(sequence)
        if row is None:
            row = self._rows[sequence] = self._make_row(sequence)
        return row

    def _make_row(self, sequence: Sequence) -> _Row:
        params = sequence.params
        penalised = params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0
        eos = [] if params.ignore_eos else self._eos_token_ids
        stops = [*eos, *params.stop_token_ids] if params.min_tokens else []
        return _Row(
            params=params,
            stream=sequence.index,
            seed=params.seed % 2**64 if params.seed is not None else self._own_seed(sequence.request_id),
            random=not params.is_greedy and params.top_k != 1,
            stops=stops,
            bad_words=sequence.bad_word_ids,
            seen=SeenTokens(sequence.prompt_token_ids) if penalised else None,
            edited=bool(stops or sequence.bad_word_ids or params.logit_bias or params.allowed_token_ids is not None),
            has_grammar=sequence.grammar is not None,
        )

    def _own_seed(self, request_id: str) -> int:
        digest = hashlib.blake2b(f"{self._seed}/{request_id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little")

    def _mask_(self, logits: Tensor, sequences: list[Sequence]) -> tuple[set[int], _Failures]:
        """Excludes from logits [R, V] what the sequences' grammars do not allow next.

        Returns the rows where only an end token is left, and for each row with a grammar what it means if that leaves
        nothing to choose.
        """
        masked = [i for i, sequence in enumerate(sequences) if sequence.grammar is not None]
        if not masked:
            return set(), {}
        assert self._grammars is not None, "the scheduler refuses grammars that nobody can read"
        masks = self._grammars.masks([sequences[i] for i in masked])
        places = torch.tensor(masked, device=logits.device)
        sampling.apply_bitmask_(logits, places, torch.from_numpy(masks.bits).to(logits.device))
        failures = dict.fromkeys(masked, _NO_WAY_ON)
        for row, error in masks.errors.items():
            logits[masked[row]] = -torch.inf
            failures[masked[row]] = EngineFailure("invalid_grammar", error)
        return {i for i, is_over in zip(masked, masks.is_over.tolist(), strict=True) if is_over}, failures

    def _choose(self, logits: Tensor, rows: list[_Output], over: set[int]) -> Tensor:
        """Tokens [R] of rows that are not plainly greedy; logits [R, V] are this call's own to change.

        over: rows whose text can only end now. They may do so below min_tokens: end tokens fill up what is missing.
        """
        for i, (logit_row, (row, output, length)) in enumerate(zip(logits, rows, strict=True)):
            if row.edited:
                _edit_(logit_row, row, output, may_end=i in over or length >= row.params.min_tokens)
        _penalise_(logits, rows)
        tokens = sampling.greedy(logits)
        drawn = [i for i, (row, _, _) in enumerate(rows) if row.random]
        if drawn:
            places = torch.tensor(drawn, device=logits.device)
            usable = tokens[places] >= 0
            chosen = self._draw(torch.where(usable[:, None], logits[places], 0.0), [rows[i] for i in drawn])
            tokens[places] = torch.where(usable, chosen, -1)
        return tokens

    def _draw(self, logits: Tensor, rows: list[_Output]) -> Tensor:
        params = [row.params for row, _, _ in rows]
        device = logits.device
        temperatures = torch.tensor([min(p.temperature, _HOTTEST) for p in params], device=device)
        weights = sampling.weights(logits, temperatures)
        cut = [i for i, p in enumerate(params) if p.top_k > 0 or p.top_p < 1 or p.min_p > 0]
        if cut:
            places = torch.tensor(cut, device=device)
            weights[places] = self._truncate(weights[places], [params[i] for i in cut])
        keys = zip(*((row.seed, row.stream, length) for row, _, length in rows), strict=True)
        uniform = sampling.uniforms(*(np.array(key, dtype=np.uint64) for key in keys))
        return sampling.draw(weights, torch.from_numpy(uniform).to(device))

    def _truncate(self, weights: Tensor, params: list[SamplingParams]) -> Tensor:
        vocab = weights.shape[1]
        top_k = torch.tensor([min(p.top_k, vocab) if p.top_k > 0 else vocab for p in params], device=weights.device)
        top_p = torch.tensor([p.top_p for p in params], device=weights.device)
        min_p = torch.tensor([p.min_p for p in params], device=weights.device)
        return sampling.truncate(weights, top_k, top_p, min_p)

    def _logprobs(self, logits: Tensor, tokens: Tensor, wanted: list[int], num_top: list[int]) -> sampling.Logprobs:
        if len(wanted) < len(tokens):
            places = torch.tensor(wanted, device=logits.device)
            logits, tokens = logits[places], tokens[places]
        return sampling.logprobs(logits, tokens.clamp(min=0), min(max(num_top), logits.shape[1]))


def _edit_(logits: Tensor, row: _Row, output: list[int], may_end: bool) -> None:
    """vLLM's order: allowed ids, bad words, min_tokens, logit bias (penalties come after). logits: [V]."""
    params = row.params
    if params.allowed_token_ids is not None:
        allowed = list(params.allowed_token_ids)
        kept = logits[allowed]
        logits.fill_(-torch.inf)
        logits[allowed] = kept
    for word in row.bad_words:
        if len(word) == 1 or output[1 - len(word) :] == word[:-1]:
            logits[word[-1]] = -torch.inf
    if row.stops and not may_end:
        logits[row.stops] = -torch.inf
    if params.logit_bias:
        logits[list(params.logit_bias)] += torch.tensor(list(params.logit_bias.values()), device=logits.device)


def _penalise_(logits: Tensor, rows: list[_Output]) -> None:
    penalised = [(i, row, row.seen) for i, (row, _, _) in enumerate(rows) if row.seen is not None]
    if not penalised:
        return
    for i, _, seen in penalised:
        seen.extend_to(rows[i][1])
    lengths = np.array([len(seen) for _, _, seen in penalised])
    places = np.array([i for i, _, _ in penalised])
    scalars = [
        np.array([getattr(row.params, name) for _, row, _ in penalised], dtype=np.float32)
        for name in ("repetition_penalty", "frequency_penalty", "presence_penalty")
    ]
    ids = np.concatenate([seen.ids for _, _, seen in penalised])
    counts = np.concatenate([seen.counts for _, _, seen in penalised])
    columns = [np.repeat(places, lengths), ids, counts, *(np.repeat(scalar, lengths) for scalar in scalars)]
    sampling.penalize_(logits, *(torch.from_numpy(column).to(logits.device) for column in columns))


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
