"""Drafts by prompt lookup: where a sequence's last tokens stood before, what followed there may follow here.

Owns one index per sequence and the judgement whether drafts pay; all of it can be rebuilt from the sequence. Knows
neither logits nor batches. After Prompt Lookup Decoding (Saxena, 2023), and LLMA (Yang et al., arXiv:2304.04487).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from multiflora_engine.core.sequence import Sequence
from multiflora_engine.speculation.ngram_index import NgramIndex
from multiflora_engine.speculation.regret import RegretBudget
from multiflora_engine.speculation.step_costs import StepCosts

_FIRST_RATE = 0.5
_NEWEST_SHARE = 0.25
"""Weight of the newest draft in the rate of accepted tokens."""

_CAUTION = 1.2
"""Times what a row is measured to cost: looking up takes time, too, and steps are no line over their rows."""

_LOST_SHARE = 0.01
"""Of decoding, what wrong drafts may cost in the long run, in each request and in the engine."""

_FIRST_LOSS, _MOST_SAVED = 0.5, 4.0
_ENGINE_FIRST_LOSS, _ENGINE_MOST_SAVED = 3.0, 32.0
"""Tokens' worth of computing: what may be lost beside that share, and what successes save up for later drafts."""

_MOST_IN_A_ROW = 32
"""Steps with drafts before one without: what a step would take without them has to be seen, too."""

_LEAST_WORTH, _MOST_WORTH = 0.2, 0.7
"""However many share the step: copies are accepted nearly whole."""

_MOST_DRAFTED = 24
"""Tokens drafted for all sequences of a step together: beyond, each further row of a step takes as long as the first
row of a small one."""

_SURELY_COPIED = 3
"""Tokens of a draft that is no chance hit."""

_SHORTEST_PAUSE = 8
_LONGEST_PAUSE = 256
"""Output tokens without drafts after drafts that did not pay; doubled each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLookupConfig:
    """When and how much is drafted. Filled from the EngineConfig's fields of these names."""

    is_default: bool
    """Whether requests that do not say themselves are drafted for."""
    num_speculative_tokens: int = 8
    prompt_lookup_max: int = 4
    prompt_lookup_min: int = 2
    disable_by_batch_size: int = 8


@dataclass(slots=True)
class _Lookup:
    """What is known of one sequence. Filled by `PromptLookup`."""

    index: NgramIndex | None
    """Of prompt, prediction and answer so far, made at the first draft that the budgets allow."""
    num_tokens: int
    """Length of the text that the budgets know of."""
    budget: RegretBudget
    is_predicted: bool = False
    """The last draft is of the prediction."""
    num_running: int = 1
    """Sequences of the last draft's step."""
    row_cost: float = 0.0
    """What a row of that step was thought to cost, in tokens."""
    size: int = 1
    """Tokens of the next draft, unless a long match promises more."""
    rate: float = _FIRST_RATE
    """Of the tokens drafted lately, the part that was accepted."""
    worth: float = 0.0
    """The rate below which drafts cost more than they save, as of the last draft."""
    num_pauses: int = 0
    """Since a draft of some length was last accepted as a whole."""
    paused_until: int = 0
    """Length of the text from which on short matches count again."""


class PromptLookup:
    """The engine's DraftSource. may_draft: whether the sampler can choose a sequence's next tokens from their logits
    alone, so that several can be verified at once."""

    def __init__(self, config: PromptLookupConfig, may_draft: Callable[[Sequence], bool]) -> None:
        self._config = config
        self._may_draft = may_draft
        # Matches are measured further than they are asked for: a long one is worth a long draft.
        self._longest = config.prompt_lookup_max + config.num_speculative_tokens
        # Weak keys: a sequence that ends or is aborted takes its index along, without a call.
        self._lookups: WeakKeyDictionary[Sequence, _Lookup] = WeakKeyDictionary()
        self._costs = StepCosts()
        # Since a step without drafts was last seen.
        self._drafted_steps = _MOST_IN_A_ROW
        self._budget = RegretBudget(_ENGINE_FIRST_LOSS, _LOST_SHARE, _ENGINE_MOST_SAVED)

    def wants(self, speculation: bool | None) -> bool:
        """See `DraftSource.wants`."""
        return self._config.is_default if speculation is None else speculation

    def draft(self, sequence: Sequence, limit: int, num_running: int) -> list[int]:
        """See `DraftSource.draft`."""
        is_full = num_running > self._config.disable_by_batch_size
        if is_full or self._drafted_steps >= _MOST_IN_A_ROW or not self._may_draft(sequence):
            return []
        lookup = self._lookup(sequence)
        lookup.num_running = num_running
        lookup.row_cost = _CAUTION * self._costs.of_row(num_running)
        limit = min(limit, *(budget.affordable(lookup.row_cost) for budget in (lookup.budget, self._budget)))
        if limit < 1:
            return []
        index = self._index(lookup, sequence)
        match = index.longest_match()
        if match is None:
            return []
        if not (limit := min(limit, self._within_prediction(lookup, sequence, match.follows))):
            return []
        size = lookup.size
        if sequence.num_tokens < lookup.paused_until:
            # What repeats itself for so long is a copy after all.
            if match.length < 2 * self._config.prompt_lookup_max:
                return []
        else:
            size = max(size, match.length - self._config.prompt_lookup_max + 1)
        lookup.worth = min(_MOST_WORTH, max(_LEAST_WORTH, lookup.row_cost))
        size = min(size, limit, self._config.num_speculative_tokens, max(1, _MOST_DRAFTED // num_running))
        return index.following(match.follows, size)

    def is_predicted(self, sequence: Sequence) -> bool:
        """See `DraftSource.is_predicted`."""
        return self._lookups[sequence].is_predicted

    def learn(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        """See `DraftSource.learn`."""
        lookup = self._lookups[sequence]
        # The step itself has been seen meanwhile, and may have cost more than was thought.
        row_cost = max(lookup.row_cost, _CAUTION * self._costs.of_row(lookup.num_running))
        token_worth = _token_worth(min(1.0, row_cost), lookup.num_running)
        for budget in (lookup.budget, self._budget):
            budget.settle(num_drafted * row_cost, num_accepted * token_worth)
        lookup.rate += _NEWEST_SHARE * (num_accepted / num_drafted - lookup.rate)
        is_whole = num_accepted == num_drafted
        lookup.size = min(2 * num_drafted, self._config.num_speculative_tokens) if is_whole else max(1, num_accepted)
        if is_whole and num_drafted >= _SURELY_COPIED:
            lookup.num_pauses = 0
        if not is_whole and lookup.rate < lookup.worth:
            pause = min(_LONGEST_PAUSE, _SHORTEST_PAUSE << lookup.num_pauses)
            lookup.num_pauses += 1
            lookup.paused_until = sequence.num_tokens + pause
            # One draft decides anew.
            lookup.size, lookup.rate = 1, _FIRST_RATE

    def observe(self, num_sequences: int, num_rows: int, seconds: float) -> None:
        """See `DraftSource.observe`."""
        self._drafted_steps = self._drafted_steps + 1 if num_rows > num_sequences else 0
        self._costs.observe(num_rows, seconds)

    def _lookup(self, sequence: Sequence) -> _Lookup:
        lookup = self._lookups.get(sequence)
        if lookup is None:
            budget = RegretBudget(_FIRST_LOSS, _LOST_SHARE, _MOST_SAVED)
            lookup = self._lookups[sequence] = _Lookup(None, sequence.num_tokens, budget)
        for budget in (lookup.budget, self._budget):
            budget.decoded(sequence.num_tokens - lookup.num_tokens)
        lookup.num_tokens = sequence.num_tokens
        return lookup

    def _index(self, lookup: _Lookup, sequence: Sequence) -> NgramIndex:
        """With all of the sequence's text in it. A prediction stands behind the prompt, as the answer would; what the
        prompt ends with is repeated behind it, so that an answer which begins so is matched from its first token on."""
        prompt, prediction = sequence.num_prompt_tokens, sequence.prediction_token_ids
        num_inserted = len(prediction) + min(prompt, self._longest) if prediction else 0
        index = lookup.index
        if index is None:
            text = sequence.token_ids
            if prediction:
                text = [*text[:prompt], *prediction, *text[max(0, prompt - self._longest) : prompt], *text[prompt:]]
            index = lookup.index = NgramIndex(text, self._config.prompt_lookup_min, self._longest)
        elif index.num_tokens < sequence.num_tokens + num_inserted:
            index.extend(sequence.token_ids[index.num_tokens - num_inserted :])
        return index

    def _within_prediction(self, lookup: _Lookup, sequence: Sequence, position: int) -> int:
        """How many tokens stand from there on up to the prediction's end; as many as one drafts, where it is not in
        the prediction. The lookup is told which it is."""
        begin = sequence.num_prompt_tokens
        end = begin + len(sequence.prediction_token_ids or ())
        lookup.is_predicted = begin <= position < end
        return end - position if begin < end and begin <= position <= end else _MOST_DRAFTED


def _token_worth(row_cost: float, num_running: int) -> float:
    """What an accepted token saves, in tokens: a whole one where all that share the step go ahead alike, and only a row
    of a later step where one of them does. Fewer do where many share it."""
    return row_cost + (1 - row_cost) * float(num_running**-0.75)
