"""The scheduler's sizes, and which requests they refuse before anything is queued."""

from __future__ import annotations

from dataclasses import dataclass

from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import check_vocabulary


class QueueFull(Exception):
    """Too many sequences wait already; the client should come back later (429)."""


class RequestTooLong(ValueError):
    """The request can never run here: it exceeds the model's length or all KV blocks together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerConfig:
    """`assemble_engine` fills it from the EngineConfig, the model, and the sizes that fit on this machine."""

    num_blocks: int
    # Prompt and output tokens of the longest sequence.
    max_model_len: int
    # Tokens of a KV block.
    block_size: int = 16
    # Sequences that run at the same time.
    max_num_seqs: int = 64
    # The token budget of one step, at least max_num_seqs so that every decode fits.
    max_num_batched_tokens: int = 2048
    # Batches of different sequences that take turns, so that all stages of a model have one to compute.
    num_batches: int = 1
    # Sequences that may wait before new requests are refused.
    max_waiting: int = 1024
    # Whether a step takes about as long as it has tokens, as on a CPU: a few sequences beside a flood then get steps of
    # their own, which cost the flood little.
    is_compute_bound: bool = False
    enable_prefix_caching: bool = True
    # The model's, and what the front end's tokenizer adds.
    eos_token_ids: frozenset[int] = frozenset()
    # Steps for which a sequence waits for one block that another sequence computes, before it computes its own copy.
    prefix_wait_steps: int = 8
    # Steps for which an adapter may be refused a slot before another one is drained for it.
    slot_patience: int = 16
    # Seconds for which a request waits for its adapter alone, before it is told to come back later.
    adapter_timeout: float = 300.0
    # What answers a prompt that does not invoke its activated LoRA; "error": none does.
    alora_fallback: str = "error"
    # How far ahead in the queue adapters are brought to host memory, in sequences.
    num_prefetched: int = 16
    # Why the keys of a document cannot be moved to another place (models/rotary.py); None: they can.
    why_keys_stay: str | None = None
    # Token ids are below it; block hashes hold 32 bits of each.
    vocab_size: int = 2**32

    def __post_init__(self) -> None:
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError("max_num_batched_tokens must be at least max_num_seqs")

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def check(self, request: GenerateRequest) -> None:
        """Raises RequestTooLong, or ValueError for an empty prompt, token ids and parameters out of range.

        The front end has checked all this. It is checked again because whatever else gets here shares a batch with
        other people's requests, and a token id beyond the vocabulary would fail the whole batch.
        """
        num_prompt, max_tokens = len(request.prompt_token_ids), request.params.max_tokens
        if not num_prompt:
            raise ValueError("the prompt has no tokens")
        self._check_token_ids("prompt_token_ids", request.prompt_token_ids)
        for word in request.bad_word_ids:
            self._check_token_ids("bad_word_ids", word)
        self._check_documents(request)
        check_vocabulary(request.params, self.vocab_size)
        if num_prompt + (max_tokens != 0) > self.max_model_len:
            raise RequestTooLong(f"the prompt has {num_prompt} tokens; the model's length is {self.max_model_len}")
        longest = self.max_model_len if max_tokens is None else min(self.max_model_len, num_prompt + max_tokens)
        # The last token's KV is never needed.
        num_blocks = self.blocks_for(max(num_prompt, longest - 1))
        if num_blocks > self.num_blocks:
            raise RequestTooLong(f"the request needs {num_blocks} KV blocks; there are {self.num_blocks}")
        if num_blocks > self.share(request.cache_share):
            own = self.share(request.cache_share)
            raise RequestTooLong(f"the request needs {num_blocks} KV blocks; its tenant's share is {own}")

    def share(self, part: float) -> int:
        """How many blocks an owner may hold whose part of the cache this is."""
        return int(self.num_blocks * part)

    def _check_documents(self, request: GenerateRequest) -> None:
        if request.documents and self.why_keys_stay:
            raise ValueError(f"documents cannot be reused: {self.why_keys_stay}")
        end = 0
        for span in request.documents:
            if not (end <= span.start < span.stop <= len(request.prompt_token_ids) and span.num_recomputed >= 0):
                raise ValueError("documents must be spans of the prompt, in order and apart")
            end = span.stop

    def _check_token_ids(self, name: str, token_ids: list[int]) -> None:
        if not token_ids or min(token_ids) < 0 or max(token_ids) >= self.vocab_size:
            raise ValueError(f"{name} must be lists of token ids from 0 to {self.vocab_size - 1}")
