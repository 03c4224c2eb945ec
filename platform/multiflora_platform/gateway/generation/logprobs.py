"""Log-probabilities as OpenAI's two formats and vLLM's prompt_logprobs write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multiflora_engine.protocol.requests import PositionLogprobs, TokenLogprob
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.gateway.schemas.answers import (
    ChatLogprobs,
    ChatTokenLogprob,
    CompletionLogprobs,
    TopLogprob,
)
from multiflora_platform.text.detokenizer import make_detokenizer
from multiflora_platform.text.tokenizer import Tokenizer

_LOWEST = -9999.0


class TextOffsets:
    """Where a text's tokens begin in it, as the client sees it: a skipped token takes no room, and the tokens of one
    character all begin where that does."""

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int], params: SamplingParams, start: int = 0) -> None:
        """before: the tokens that precede the text. start: the offset of its first character."""
        self._detokenizer = make_detokenizer(
            tokenizer,
            before,
            skip_special_tokens=params.skip_special_tokens,
            spaces_between_special_tokens=params.spaces_between_special_tokens,
        )
        self._next = start

    def take(self, token_ids: Sequence[int]) -> list[int]:
        """Of the tokens that come next."""
        offsets = []
        for token_id in token_ids:
            offsets.append(self._next)
            self._next += len(self._detokenizer.push(token_id))
        return offsets


class LogprobWriter:
    """as_ids: write tokens as `token_id:5` (vLLM's return_tokens_as_token_ids), which no two tokens share."""

    def __init__(self, tokenizer: Tokenizer, as_ids: bool = False) -> None:
        self._tokenizer = tokenizer
        self._as_ids = as_ids

    def token(self, token_id: int) -> str:
        if self._as_ids:
            return f"token_id:{token_id}"
        return self._tokenizer.token_bytes.of(token_id).decode("utf-8", "replace")

    def completion(
        self,
        token_ids: Sequence[int],
        positions: Sequence[PositionLogprobs | None],
        num_top: int,
        offsets: Sequence[int],
    ) -> CompletionLogprobs:
        """positions, offsets: one for each token; a position is None where nothing precedes it."""
        out = CompletionLogprobs([], [], [], list(offsets))
        for token_id, position in zip(token_ids, positions, strict=True):
            out.tokens.append(self.token(token_id))
            out.token_logprobs.append(None if position is None else _finite(position.chosen.logprob))
            out.top_logprobs.append(None if position is None else self._top_by_text(position, num_top))
        return out

    def chat(self, positions: Sequence[PositionLogprobs], num_top: int) -> ChatLogprobs:
        return ChatLogprobs([self._chat_token(position, num_top) for position in positions])

    def prompt(self, positions: Sequence[PositionLogprobs | None]) -> list[dict[str, Any] | None]:
        """vLLM's: for each prompt token, {token id: {logprob, rank, decoded_token}}."""
        return [
            None if position is None else {str(entry.token_id): self._ranked(entry) for entry in _entries(position)}
            for position in positions
        ]

    def _top_by_text(self, position: PositionLogprobs, num_top: int) -> dict[str, float]:
        """The best ones and the chosen one; of tokens that read alike, the likeliest stays."""
        top: dict[str, float] = {}
        for entry in (*position.top[:num_top], position.chosen):
            top.setdefault(self.token(entry.token_id), _finite(entry.logprob))
        return top

    def _chat_token(self, position: PositionLogprobs, num_top: int) -> ChatTokenLogprob:
        chosen = self._top(position.chosen)
        top = [self._top(entry) for entry in position.top[:num_top]]
        return ChatTokenLogprob(chosen.token, chosen.logprob, chosen.bytes, top)

    def _top(self, entry: TokenLogprob) -> TopLogprob:
        content = self._tokenizer.token_bytes.of(entry.token_id)
        return TopLogprob(self.token(entry.token_id), _finite(entry.logprob), list(content))

    def _ranked(self, entry: TokenLogprob) -> dict[str, Any]:
        return {"logprob": _finite(entry.logprob), "rank": entry.rank, "decoded_token": self.token(entry.token_id)}


def _entries(position: PositionLogprobs) -> Sequence[TokenLogprob]:
    if any(entry.token_id == position.chosen.token_id for entry in position.top):
        return position.top
    return [position.chosen, *position.top]


def _finite(value: float) -> float:
    """JSON knows no infinity."""
    return max(value, _LOWEST)
