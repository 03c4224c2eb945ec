"""Gathers one offline request's answers as its token deltas come; hands them out whole, or what is new.

Knows neither the engine nor other requests; how tokens become text is the assembler's.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import replace

from multiflora.lora_request import LoRARequest
from multiflora.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput
from multiflora_engine.protocol.requests import GenerateRequest, PositionLogprobs, TokenDelta
from multiflora_engine.protocol.sampling_params import RequestOutputKind, SamplingParams
from multiflora_platform.gateway.beams.search import BeamParams
from multiflora_platform.text.assembler import TextAssembler
from multiflora_platform.text.best_answers import Answer, best_answers
from multiflora_platform.text.tokenizer import Tokenizer


class Collector:
    """Of one request, until each of its answers has ended."""

    def __init__(
        self,
        request: GenerateRequest,
        asked: SamplingParams,
        prompt: str | None,
        adapter: str | None,
        tokenizer: Tokenizer,
        *,
        lora_request: LoRARequest | None = None,
        beams: BeamParams | None = None,
        kept_ids: Collection[int] = (),
    ) -> None:
        """asked: the caller's parameters; those of the request may add logprobs, which best_of needs. beams: of the
        search that finds the answers, if one is asked for. kept_ids: of special tokens that stay in the text."""
        self.request = request
        self.beams = beams
        self._asked = asked
        self._prompt = prompt
        self._adapter = adapter
        self._lora_request = lora_request
        self._tokenizer = tokenizer
        self._cached_tokens = 0
        self._prompt_logprobs: list[PositionLogprobs | None] | None = None
        self._metrics = RequestMetrics(request.arrival_time)
        count = range(request.params.num_sequences)
        self._assemblers = [TextAssembler(tokenizer, request, index, kept_ids) for index in count]
        self._whole = [Answer(index) for index in count]
        # What came since `news` was last asked for, by answer.
        self._new: dict[int, Answer] = {}
        # Why an answer's finish_reason is "error", by answer; the engine says it.
        self._errors: dict[int, str] = {}

    def push(self, delta: TokenDelta) -> bool:
        """True when this ended the answer although the engine would go on: a stop string came."""
        self._cached_tokens = max(self._cached_tokens, delta.cached_tokens)
        if delta.prompt_logprobs is not None:
            self._prompt_logprobs = delta.prompt_logprobs
        assembler = self._assemblers[delta.index]
        if assembler.is_finished:
            return False  # computed before the engine heard of the stop string
        text = assembler.take(delta)
        self._whole[delta.index].add(text)
        self._new.setdefault(delta.index, Answer(delta.index)).add(text)
        if delta.failure is not None and text.finish_reason == delta.finish_reason:
            self._errors[delta.index] = delta.failure.message
        self._note_time(delta)
        return text.finish_reason is not None and delta.finish_reason is None

    @property
    def finished(self) -> bool:
        return all(assembler.is_finished for assembler in self._assemblers)

    @property
    def num_returned(self) -> int:
        return self._asked.n

    @property
    def num_tokens(self) -> int:
        return sum(len(answer.token_ids) for answer in self._whole)

    def output(self) -> RequestOutput:
        """Everything so far; of best_of candidates the n likeliest, best first."""
        return self._wrap([self._output(answer, answer) for answer in best_answers(self._whole, self._asked.n)])

    def news(self) -> RequestOutput | None:
        """What has come since the last call, if anything has."""
        new, self._new = self._new, {}
        return self._wrap([self._output(new[i], self._whole[i]) for i in sorted(new)]) if new else None

    def require_pieces(self) -> None:
        """Raises ValueError where pieces are asked for of what is only known at the end."""
        if self._asked.output_kind is RequestOutputKind.DELTA and self._chooses:
            raise ValueError("best_of needs output_kind CUMULATIVE or FINAL_ONLY: the best are known at the end")

    def shown(self) -> RequestOutput | None:
        """What a reader of the whole run gets now, by the request's output_kind; None: nothing."""
        kind = self._asked.output_kind
        if kind is RequestOutputKind.DELTA:
            return self.news()
        if self.finished or not (self._chooses or kind is RequestOutputKind.FINAL_ONLY):
            return self.output()
        return None

    @property
    def _chooses(self) -> bool:
        """Which candidates are the best is known at the end."""
        return self.request.params.num_sequences > self.num_returned

    def _note_time(self, delta: TokenDelta) -> None:
        now, seen = time.time(), self._metrics
        if delta.token_ids and seen.first_token_time is None:
            waited = delta.queued_seconds
            seen = replace(
                seen, first_token_time=now, first_scheduled_time=seen.arrival_time + waited, time_in_queue=waited
            )
        if delta.token_ids:
            seen = replace(seen, last_token_time=now)
        self._metrics = replace(seen, finished_time=now) if self.finished else seen

    def _output(self, shown: Answer, whole: Answer) -> CompletionOutput:
        """whole: the same answer from its beginning, over which log-probabilities add up."""
        asked = self._asked.logprobs is not None
        return CompletionOutput(
            index=shown.index,
            text=shown.text,
            # A copy: an output that a caller keeps does not grow with its answer.
            token_ids=list(shown.token_ids),
            cumulative_logprob=whole.cumulative_logprob if asked else None,
            logprobs=[self._by_token(position) for position in shown.logprobs or ()] if asked else None,
            finish_reason=shown.finish_reason,
            stop_reason=shown.stop_reason,
            error=self._errors.get(shown.index),
        )

    def _wrap(self, outputs: list[CompletionOutput]) -> RequestOutput:
        return RequestOutput(
            request_id=self.request.id,
            prompt=self._prompt,
            prompt_token_ids=self.request.prompt_token_ids,
            outputs=outputs,
            finished=self.finished,
            num_cached_tokens=self._cached_tokens,
            adapter=self._adapter,
            lora_request=self._lora_request,
            prompt_logprobs=self._of_prompt(self._prompt_logprobs),
            metrics=self._metrics,
        )

    def _of_prompt(self, positions: Iterable[PositionLogprobs | None] | None) -> list[dict[int, Logprob] | None] | None:
        if positions is None:
            return None
        return [None if position is None else self._by_token(position) for position in positions]

    def _by_token(self, position: PositionLogprobs) -> dict[int, Logprob]:
        text = self._tokenizer.token_bytes.of
        return {
            entry.token_id: Logprob(entry.logprob, entry.rank, text(entry.token_id).decode("utf-8", "replace"))
            for entry in (position.chosen, *position.top)
        }
