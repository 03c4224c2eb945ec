"""What only an earlier life of the engine had seen of a prompt: by content, adapter and salt, block by block."""

from __future__ import annotations

from array import array

from multiflora_engine.protocol.requests import GenerateRequest
from multiflora_engine.protocol.sampling_params import SamplingParams
from multiflora_platform.insight.earlier_lives import EarlierLives

PROMPT = list(range(40))


def asked(token_ids: list[int], digest: str | None = None, salt: str = "") -> GenerateRequest:
    return GenerateRequest(
        id="r", prompt_token_ids=token_ids, params=SamplingParams(), adapter_digest=digest, cache_salt=salt
    )


def note(lives: EarlierLives, request: GenerateRequest, block_size: int, life: int) -> range:
    return lives.note(
        request.adapter_digest, request.cache_salt, array("I", request.prompt_token_ids), block_size, life
    )


def test_nothing_is_lost_in_one_life() -> None:
    lives = EarlierLives()
    assert [len(note(lives, asked(PROMPT), 16, 0)) for _ in range(2)] == [0, 0]


def test_whole_blocks_are_lost_with_a_life_until_the_next_has_seen_them() -> None:
    lives = EarlierLives()
    note(lives, asked(PROMPT), 16, 0)
    assert note(lives, asked(PROMPT[:20]), 16, 1) == range(16)
    assert note(lives, asked(PROMPT), 16, 1) == range(16, 32)
    assert not note(lives, asked(PROMPT), 16, 1)
    assert note(lives, asked(PROMPT), 16, 2) == range(32)


def test_another_prompt_adapter_or_salt_has_lost_nothing() -> None:
    lives = EarlierLives()
    note(lives, asked(PROMPT), 16, 0)
    for other in (asked(PROMPT[1:]), asked(PROMPT, "a" * 64), asked(PROMPT, salt="s"), asked([])):
        assert not note(lives, other, 16, 1)
    assert note(lives, asked(PROMPT[:16] + [99] * 24), 16, 1) == range(16)


def test_the_oldest_prompts_are_forgotten_first() -> None:
    lives = EarlierLives(most_blocks=7)
    for prompt in (PROMPT, PROMPT[20:]):
        note(lives, asked(prompt), 8, 0)
    note(lives, asked([7] * 24), 8, 0)
    assert not note(lives, asked(PROMPT[:16]), 8, 1)
    assert note(lives, asked(PROMPT[20:]), 8, 1) == range(16)
