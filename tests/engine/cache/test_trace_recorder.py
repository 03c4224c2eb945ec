"""What a recording has of sequences that end, and what bounds it."""

from __future__ import annotations

from array import array

import pytest

from multiflora_engine.cache import trace_recorder
from multiflora_engine.cache.trace_recorder import TraceRecorder
from multiflora_engine.core.sequence import Sequence, make_sequences
from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_engine.protocol.traced_request import TracedRequest

BLOCK = 4


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def ended(
    num_blocks: int = 3,
    owner: str = "",
    background: bool = False,
    n: int = 1,
    adapter: str | None = None,
    output: int = 0,
    **params: int,
) -> list[Sequence]:
    """Sequences of a prompt of nine tokens that were computed to so many blocks, and so many tokens of output."""
    request = GenerateRequest(
        id="r",
        prompt_token_ids=list(range(9)),
        params=SamplingParams(n=n, max_tokens=8, **params),
        cache_owner=owner,
        background=background,
        adapter_digest=adapter,
        arrival_time=1.5e9,
    )
    sequences = make_sequences(request, 0)
    for sequence in sequences:
        sequence.block_hashes = [bytes([number]) * 32 for number in range(num_blocks + 1)]
        sequence.num_computed_tokens = num_blocks * BLOCK + 1
        sequence.output_token_ids.extend(range(output))
        sequence.block_table = array("i", range(num_blocks + 1))
    return sequences


def test_nothing_is_kept_until_it_is_asked_for_and_a_minute_after() -> None:
    clock = Clock()
    recorder = TraceRecorder(BLOCK, clock)
    recorder.note(*ended())
    assert recorder.take() == ([], 0, False)
    recorder.note(*ended())
    assert len(recorder.take()[0]) == 1
    recorder.note(*ended())
    clock.now += 61
    assert recorder.take() == ([], 0, False), "what came before a pause is of another recording"
    clock.now += 61
    recorder.note(*ended())
    assert recorder.take() == ([], 0, False)


def test_hashes_of_computed_blocks_and_what_could_be_found() -> None:
    recorder = TraceRecorder(BLOCK, Clock())
    recorder.take()
    for owner, background in (("secret a", False), ("secret b", True), ("secret a", False)):
        recorder.note(*ended(owner=owner, background=background))
    blocks = ["00" * 8, "01" * 8, "02" * 8]
    assert recorder.take()[0] == [
        TracedRequest(blocks, 2, at=1.5e9, prompt_tokens=9),
        TracedRequest(blocks, 2, owner=1, background=True, at=1.5e9, prompt_tokens=9),
        TracedRequest(blocks, 2, at=1.5e9, prompt_tokens=9),
    ]
    recorder.note(*ended(num_blocks=1))
    recorder.note(*ended(num_blocks=0))
    recorder.note(*ended(prompt_logprobs=0))
    recorder.note(ended(n=2)[1])
    assert [(len(request.blocks), request.prompt_blocks) for request in recorder.take()[0]] == [(1, 1), (0, 0), (3, 0)]


def test_adapters_are_numbers_and_answers_lengths() -> None:
    recorder = TraceRecorder(BLOCK, Clock())
    recorder.take()
    for adapter, output in (("secret a", 3), (None, 0), ("secret b", 5), ("secret a", 1)):
        recorder.note(*ended(adapter=adapter, output=output))
    assert [(one.adapter, one.output_tokens) for one in recorder.take()[0]] == [(1, 3), (0, 0), (2, 5), (1, 1)]


def test_answers_and_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_recorder, "_BLOCKS_AT_ONCE", 6)
    monkeypatch.setattr(trace_recorder, "_MOST_BLOCKS", 12)
    recorder = TraceRecorder(BLOCK, Clock())
    recorder.take()
    for _ in range(5):
        recorder.note(*ended())
    answers = [recorder.take() for _ in range(3)]
    assert [(len(taken), lost, has_more) for taken, lost, has_more in answers] == [
        (2, 1, True),
        (2, 0, False),
        (0, 0, False),
    ]
    for _ in range(4):
        recorder.note(*ended())
    assert recorder.take()[1] == 0, "what was taken makes room"
