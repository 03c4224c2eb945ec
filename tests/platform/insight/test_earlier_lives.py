"""What only an earlier life of an engine, or another engine, had seen of a prompt: by content, adapter and salt."""

from __future__ import annotations

from array import array

import pytest

from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.engine import Life
from multiflora_platform.insight.earlier_lives import EarlierLives, SeenBefore

PROMPT = list(range(40))


def asked(token_ids: list[int], digest: str | None = None, salt: str = "") -> GenerateRequest:
    return GenerateRequest(
        id="r", prompt_token_ids=token_ids, params=SamplingParams(), adapter_digest=digest, cache_salt=salt
    )


def note(lives: EarlierLives, request: GenerateRequest, block_size: int, epoch: int, replica: str = "0") -> SeenBefore:
    ids = array("I", request.prompt_token_ids)
    return lives.note(request.adapter_digest, request.cache_salt, ids, block_size, Life(replica, epoch))


def test_nothing_is_lost_in_one_life() -> None:
    lives = EarlierLives()
    assert note(lives, asked(PROMPT), 16, 0) == (0, 0, 0)
    assert note(lives, asked(PROMPT), 16, 0) == (32, 32, 32)


def test_whole_blocks_are_lost_with_a_life_until_the_next_has_seen_them() -> None:
    lives = EarlierLives()
    note(lives, asked(PROMPT), 16, 0)
    assert note(lives, asked(PROMPT[:20]), 16, 1) == (0, 16, 16)
    assert note(lives, asked(PROMPT), 16, 1) == (16, 32, 32)
    assert note(lives, asked(PROMPT), 16, 1) == (32, 32, 32)
    assert note(lives, asked(PROMPT), 16, 2) == (0, 32, 32)


def test_a_life_of_one_replica_is_nothing_to_another() -> None:
    lives = EarlierLives()
    note(lives, asked(PROMPT), 16, 0, "0")
    assert note(lives, asked(PROMPT[:20]), 16, 5, "1") == (0, 0, 16)
    assert note(lives, asked(PROMPT), 16, 5, "1") == (16, 16, 32)
    assert note(lives, asked(PROMPT), 16, 0, "0") == (32, 32, 32)
    assert note(lives, asked(PROMPT), 16, 1, "0") == (0, 32, 32)


@pytest.mark.parametrize(
    ("cached", "reason"),
    [(0, None), (16, "engine_restarted"), (47, "engine_restarted"), (48, "other_replica"), (64, None)],
)
def test_what_is_lost_goes_before_what_others_have(cached: int, reason: str | None) -> None:
    assert SeenBefore(16, 48, 64).reason(cached) == reason


def test_another_prompt_adapter_or_salt_has_lost_nothing() -> None:
    lives = EarlierLives()
    note(lives, asked(PROMPT), 16, 0)
    for other in (asked(PROMPT[1:]), asked(PROMPT, "a" * 64), asked(PROMPT, salt="s"), asked([])):
        assert note(lives, other, 16, 1) == (0, 0, 0)
    assert note(lives, asked(PROMPT[:16] + [99] * 24), 16, 1) == (0, 16, 16)


def test_the_oldest_prompts_are_forgotten_first() -> None:
    lives = EarlierLives(most_blocks=7)
    for prompt in (PROMPT, PROMPT[20:]):
        note(lives, asked(prompt), 8, 0)
    note(lives, asked([7] * 24), 8, 0)
    assert note(lives, asked(PROMPT[:16]), 8, 1) == (0, 0, 0)
    assert note(lives, asked(PROMPT[20:]), 8, 1) == (0, 16, 16)
