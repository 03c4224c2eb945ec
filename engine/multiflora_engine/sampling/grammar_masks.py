"""Which tokens the grammars of running sequences allow next, computed beside the forward pass.

Owns compiled grammars, one matcher per sequence and two threads; what a matcher knows can be rebuilt from its
sequence's output. Knows nothing of scheduling, logits or text.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection
from collections.abc import Sequence as Rows
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from llguidance import LLExecutor, LLMatcher
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par

from multiflora_engine.core.grammar_source import GrammarError
from multiflora_engine.core.sequence import Sequence
from multiflora_engine.sampling.grammars import GrammarVocabulary, check

_log = logging.getLogger(__name__)

_CACHED_GRAMMARS = 128


@dataclass(frozen=True, slots=True)
class TokenMasks:
    """What R grammars allow next. Filled on the mask thread."""

    bits: npt.NDArray[np.int32]
    """[R, ceil(V / 32)] bit v % 32 of word v // 32 is set where token v may come next."""
    is_over: npt.NDArray[np.bool_]
    """[R] whether nothing but an end token may come."""
    errors: dict[int, str]
    """By row, why a matcher cannot go on; the row's bits mean nothing then."""


@dataclass(slots=True)
class _Reader:
    """How far one sequence's grammar has come. Made by the step loop, then touched by the mask thread alone."""

    matcher: LLMatcher
    """A copy of the compiled grammar's: matchers remember what they read."""
    num_read: int = 0
    """Output tokens that the matcher has been given."""


@dataclass(frozen=True, slots=True)
class _Job:
    """Masks that the mask thread computes, or has computed. Filled by `_submit`."""

    places: dict[Sequence, tuple[int, int]]
    """Each sequence's row in the masks, and how long its output was when they were asked for."""
    masks: Future[TokenMasks]

    def covers(self, sequences: Rows[Sequence]) -> bool:
        return all(
            (place := self.places.get(sequence)) is not None and place[1] == len(sequence.output_token_ids)
            for sequence in sequences
        )


class GrammarMasks:
    """For one engine (its GrammarSource). Call everything from the step loop.

    `prepare` before the forward pass, `masks` after it: the work is done meanwhile, outside the GIL.
    """

    def __init__(self, vocabulary: GrammarVocabulary) -> None:
        self.vocabulary = vocabulary
        self._ends = _bits_of(vocabulary.eos_token_ids, vocabulary.vocab_size)
        # A tokenizer may have more tokens than the model has rows; those are never chosen.
        self._in_model = _bits_of(range(vocabulary.vocab_size), vocabulary.vocab_size)
        self._compiled: OrderedDict[str, Future[LLMatcher]] = OrderedDict()
        # Weak keys: a sequence that ends or is aborted takes its matcher along, without a call.
        self._waiting: WeakKeyDictionary[Sequence, Future[LLMatcher]] = WeakKeyDictionary()
        self._readers: WeakKeyDictionary[Sequence, _Reader] = WeakKeyDictionary()
        self._job: _Job | None = None
        self._executor = LLExecutor()
        # A compilation may take a second; masks must not wait for it.
        self._compiler = ThreadPoolExecutor(1, "grammar-compiler")
        self._mask_thread = ThreadPoolExecutor(1, "grammar-masks")

    def begin(self, sequence: Sequence) -> None:
        assert sequence.grammar is not None, "only sequences with a grammar begin one"
        self._waiting[sequence] = self._compilation(sequence.grammar)

    def is_ready(self, sequence: Sequence) -> bool:
        if sequence in self._readers:
            return True
        compilation = self._waiting[sequence]
        if not compilation.done():
            return False
        try:
            matcher = compilation.result()
        except GrammarError:
            raise
        except BaseException as error:  # the library's panics are no Exceptions, and would end the engine
            raise GrammarError(f"it cannot be compiled: {type(error).__name__}") from None
        self._readers[sequence] = _Reader(matcher.deep_copy())
        return True

    def prepare(self, sequences: Rows[Sequence]) -> None:
        """The masks of these sequences' next tokens will be asked for soon; those without a grammar are passed over."""
        wanted = [sequence for sequence in sequences if sequence.grammar is not None]
        # Masks of a batch that was withdrawn are still good if no sequence has grown since.
        if wanted and not (self._job is not None and self._job.covers(wanted)):
            self._job = self._submit(wanted)

    def masks(self, sequences: Rows[Sequence]) -> TokenMasks:
        """Of sequences that all have a grammar, in their order. Waits for them, prepared or not."""
        self.prepare(sequences)
        assert self._job is not None, "prepare made it"
        try:
            masks = self._job.masks.result()
        except BaseException as error:  # as in is_ready; the engine finds the cause by halving the batch
            self._job = None
            raise RuntimeError(f"masks cannot be computed: {type(error).__name__}") from error
        # The job is about more sequences when half of a batch is run again.
        rows = [self._job.places[sequence][0] for sequence in sequences]
        errors = {i: masks.errors[row] for i, row in enumerate(rows) if row in masks.errors}
        return TokenMasks(masks.bits[rows], masks.is_over[rows], errors)

    def close(self) -> None:
        """Ends the threads without waiting for what they still do: no step will ask for it."""
        self._compiler.shutdown(wait=False, cancel_futures=True)
        self._mask_thread.shutdown(wait=False, cancel_futures=True)

    def _compilation(self, grammar: str) -> Future[LLMatcher]:
        """Cached by the grammar's text, the longest unused one dropped first."""
        known = self._compiled.get(grammar)
        if known is None:
            known = self._compiled[grammar] = self._compiler.submit(self.vocabulary.matcher, grammar)
        self._compiled.move_to_end(grammar)
        if len(self._compiled) > _CACHED_GRAMMARS:
            self._compiled.popitem(last=False)
        return known

    def _submit(self, sequences: list[Sequence]) -> _Job:
        readers = [self._readers[sequence] for sequence in sequences]
        # The lists grow while the thread works: it gets what there is now.
        unread = [s.output_token_ids[reader.num_read :] for s, reader in zip(sequences, readers, strict=True)]
        places = {sequence: (row, len(sequence.output_token_ids)) for row, sequence in enumerate(sequences)}
        return _Job(places, self._mask_thread.submit(self._compute, readers, unread))

    def _compute(self, readers: list[_Reader], unread: list[list[int]]) -> TokenMasks:
        errors: dict[int, str] = {}
        bits = allocate_token_bitmask(len(readers), self.vocabulary.num_tokens)
        for row, (reader, tokens) in enumerate(zip(readers, unread, strict=True)):
            if not self._read(reader.matcher, tokens):
                errors[row] = _why(reader.matcher) or "the grammar does not allow the text so far"
            reader.num_read += len(tokens)
        # One call for all rows: the library spreads them over threads, and leaves the GIL while it works.
        live = [(reader.matcher, row) for row, reader in enumerate(readers) if row not in errors]
        if live:
            fill_next_token_bitmask_par(self._executor, live, bits)
        errors |= {row: error for matcher, row in live if (error := _why(matcher)) is not None}
        bits = bits[:, : len(self._in_model)] & self._in_model
        return TokenMasks(bits, np.all(bits & ~self._ends == 0, axis=1), errors)

    def _read(self, matcher: LLMatcher, tokens: list[int]) -> bool:
        """False if the grammar does not allow them. A matcher that has stopped takes no end tokens; we do."""
        return all(
            token in self.vocabulary.eos_token_ids if matcher.is_stopped() else matcher.consume_token(token)
            for token in tokens
        )


def _why(matcher: LLMatcher) -> str | None:
    try:
        check(matcher)
    except GrammarError as error:
        return str(error)
    return None


def _bits_of(tokens: Collection[int], vocab_size: int) -> npt.NDArray[np.int32]:
    """[ceil(V / 32)] int32, as in `TokenMasks.bits`."""
    flags = np.zeros(-(-vocab_size // 32) * 32, dtype=np.uint8)
    flags[list(tokens)] = 1
    return np.packbits(flags, bitorder="little").view("<i4").astype(np.int32)


def load_grammar_masks(
    tokenizer: str | None, folder: Path, vocab_size: int, eos_token_ids: Collection[int]
) -> GrammarMasks | None:
    """Of the model in `folder`, with the tokenizer as the front end merged it, or as the folder has it. None where
    there is no tokenizer that grammars could be matched with; everything else works without."""
    try:
        definition = tokenizer or (folder / "tokenizer.json").read_text(encoding="utf-8")
        return GrammarMasks(GrammarVocabulary(definition, vocab_size, eos_token_ids))
    except OSError:
        return None
    except GrammarError as error:
        _log.warning("There is no structured output: %s", error)
        return None
