"""One answer's text as its tokens come: detokenized, cut at a stop string, ended.

Knows one sequence of one request; neither where the deltas come from nor who reads the text.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from multiflora_engine.protocol.requests import FinishReason, GenerateRequest, PositionLogprobs, TokenDelta
from multiflora_platform.text.detokenizer import make_detokenizer
from multiflora_platform.text.stop_strings import StopStrings
from multiflora_platform.text.tokenizer import Tokenizer


class TextDelta(msgspec.Struct, gc=False):
    """What one delta of tokens adds to an answer."""

    index: int
    """Which of the request's answers."""
    text: str
    """Empty while a stop string may have begun, and until a character is whole."""
    token_ids: list[int]
    """Up to the one that completed a stop string."""
    logprobs: list[PositionLogprobs] | None = None
    """One for each token id, when the request asks for them."""
    finish_reason: FinishReason | None = None
    """Set by the last delta: the engine's, or "stop" when a stop string was found here."""
    stop_reason: str | int | None = None
    """The stop string or the stop token's id that ended the answer; None for the end of the sequence."""


class TextAssembler:
    """Answer `index` of a request. After the delta with a finish_reason it takes no more.

    kept_ids: of special tokens that who reads the text looks for; they stay where the others are skipped.
    """

    def __init__(
        self, tokenizer: Tokenizer, request: GenerateRequest, index: int, kept_ids: Collection[int] = ()
    ) -> None:
        params = request.params
        self.is_finished = False
        self._index = index
        self._detokenizes = params.detokenize
        self._detokenizer = make_detokenizer(
            tokenizer,
            request.prompt_token_ids,
            skip_special_tokens=params.skip_special_tokens,
            kept_ids=kept_ids,
            spaces_between_special_tokens=params.spaces_between_special_tokens,
        )
        self._stop = StopStrings(params.stop, params.include_stop_str_in_output)
        self._includes_stop = params.include_stop_str_in_output
        self._min_tokens = params.min_tokens
        self._num_tokens = 0

    def take(self, delta: TokenDelta) -> TextDelta:
        """The delta's tokens up to a stop string; a stop token's own text is left out unless stop strings are kept."""
        assert not self.is_finished, "the reader leaves out what the engine computed after a stop string"
        out = TextDelta(self._index, "", delta.token_ids, delta.logprobs, delta.finish_reason, delta.stop_reason)
        hidden = 1 if delta.finish_reason == "stop" and not self._includes_stop else 0
        visible = len(delta.token_ids) - hidden if self._detokenizes else 0
        for position, token_id in enumerate(delta.token_ids):
            self._num_tokens += 1
            piece = self._detokenizer.push(token_id) if position < visible else ""
            if self._scan(out, piece):
                _cut(out, position + 1)
                break
        else:
            if out.finish_reason is not None:
                self._flush(out)
        self.is_finished = out.finish_reason is not None
        return out

    def _flush(self, out: TextDelta) -> None:
        # An unfinished character can still complete a stop string; only then may what was held back go out.
        if self._detokenizes and not self._scan(out, self._detokenizer.flush()):
            out.text += self._stop.flush()

    def _scan(self, out: TextDelta, piece: str) -> bool:
        """Adds what may go out; True when a stop string ends the answer here."""
        text, stop = self._stop.push(piece, armed=self._num_tokens > self._min_tokens)
        out.text += text
        if stop is not None:
            out.finish_reason, out.stop_reason = "stop", stop
        return stop is not None


def _cut(out: TextDelta, num_tokens: int) -> None:
    out.token_ids = out.token_ids[:num_tokens]
    if out.logprobs is not None:
        out.logprobs = out.logprobs[:num_tokens]
