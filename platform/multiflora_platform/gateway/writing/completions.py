"""Completions as OpenAI writes them: one object, or a stream of the same with what is new."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from msgspec import UNSET
from msgspec.structs import replace

from multiflora_engine.protocol.requests import PositionLogprobs
from multiflora_platform.gateway.generation.collect import Event
from multiflora_platform.gateway.generation.event_stream import frame
from multiflora_platform.gateway.generation.generation import Generation
from multiflora_platform.gateway.generation.logprobs import LogprobWriter, TextOffsets
from multiflora_platform.gateway.generation.usage import usage, wants_usage
from multiflora_platform.gateway.schemas.answers import Completion, CompletionChoice
from multiflora_platform.gateway.schemas.requests import CompletionRequest
from multiflora_platform.text.best_answers import Answer
from multiflora_platform.text.tokenizer import Tokenizer


class CompletionWriter:
    """Of one request. id: the answer's. created: Unix seconds. fingerprint: the system_fingerprint."""

    def __init__(self, body: CompletionRequest, tokenizer: Tokenizer, id: str, created: int, fingerprint: str) -> None:
        self._body = body
        # Answers of each prompt, which are numbered through: prompt 1's first is number n.
        self._n = body.n or 1
        self._tokenizer = tokenizer
        self._logprobs = LogprobWriter(tokenizer, bool(body.return_tokens_as_token_ids))
        # Of each answer that has begun, by its choice's index.
        self._offsets: dict[int, TextOffsets] = {}
        self._id = id
        self._created = created
        self._fingerprint = fingerprint

    def complete(self, generations: Sequence[Generation], answers: Sequence[Sequence[Answer]]) -> Completion:
        choices = [
            self._choice(number, generation, answer)
            for number, generation in enumerate(generations)
            for answer in answers[number]
        ]
        return self._completion(choices, generations)

    async def frames(
        self, generations: Sequence[Generation], events: AsyncGenerator[Event, None]
    ) -> AsyncGenerator[bytes, None]:
        body, (at_end, always) = self._body, wants_usage(self._body)
        begun: set[tuple[int, int]] = set()
        try:
            async for number, event in events:
                is_first = (number, event.index) not in begun
                if not (event.text or event.finish_reason or body.return_token_ids or event.logprobs or is_first):
                    continue
                generation = generations[number]
                choice = CompletionChoice(
                    index=number * self._n + event.index,
                    text=event.text,
                    finish_reason=event.finish_reason,
                    stop_reason=event.stop_reason,
                )
                self._add_tokens(choice, generation, event.token_ids, event.logprobs, is_first)
                begun.add((number, event.index))
                chunk = self._completion([choice], generations if always else None)
                if at_end and not always:
                    chunk.usage = None
                yield frame(chunk)
            if at_end:
                yield frame(self._completion([], generations))
        finally:
            await events.aclose()

    def _completion(self, choices: list[CompletionChoice], counted: Sequence[Generation] | None) -> Completion:
        total = UNSET if counted is None else usage(counted)
        return Completion(
            id=self._id,
            created=self._created,
            model=self._body.model,
            choices=choices,
            system_fingerprint=self._fingerprint,
            usage=total,
        )

    def _choice(self, number: int, generation: Generation, answer: Answer) -> CompletionChoice:
        choice = CompletionChoice(
            index=number * self._n + answer.index,
            text=answer.text,
            finish_reason=answer.finish_reason,
            stop_reason=answer.stop_reason,
        )
        self._add_tokens(choice, generation, answer.token_ids, answer.logprobs, True)
        if self._body.prompt_logprobs is not None and generation.prompt_logprobs is not None:
            choice.prompt_logprobs = self._logprobs.prompt(generation.prompt_logprobs)
        return choice

    def _add_tokens(
        self,
        choice: CompletionChoice,
        generation: Generation,
        token_ids: list[int],
        positions: list[PositionLogprobs] | None,
        is_first: bool,
    ) -> None:
        """Ids, log-probabilities and, at an answer's beginning, the echoed prompt."""
        body, prompt = self._body, generation.request.prompt_token_ids
        echoes = bool(body.echo) and is_first
        if echoes:
            choice.text = self._prompt_text(prompt) + choice.text
        if body.return_token_ids:
            choice.token_ids = token_ids
            if is_first:
                choice.prompt_token_ids = prompt
        if body.logprobs is not None:
            before = (generation.prompt_logprobs or []) if echoes else []
            ids = [*prompt, *token_ids] if before else token_ids
            offsets = self._prompt_offsets(generation) if before else []
            if is_first:
                start = len(self._prompt_text(prompt)) if echoes else 0
                params = generation.request.params
                self._offsets[choice.index] = TextOffsets(self._tokenizer, prompt, params, start)
            offsets += self._offsets[choice.index].take(token_ids)
            choice.logprobs = self._logprobs.completion(ids, [*before, *(positions or ())], body.logprobs, offsets)

    def _prompt_offsets(self, generation: Generation) -> list[int]:
        request = generation.request
        params = replace(request.params, skip_special_tokens=False) if self._echoes_as_written else request.params
        return TextOffsets(self._tokenizer, (), params).take(request.prompt_token_ids)

    @property
    def _echoes_as_written(self) -> bool:
        return isinstance(self._body.prompt, str) and self._body.truncate_prompt_tokens is None

    def _prompt_text(self, prompt: list[int]) -> str:
        if isinstance(self._body.prompt, str) and self._echoes_as_written:
            return self._body.prompt
        return self._tokenizer.decode(prompt, skip_special_tokens=self._body.skip_special_tokens is not False)
