"""Real engines with copies of KV blocks behind the device: restarts, damage, small pools; transformers as oracle."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, PreTrainedModel

from multiflora_engine import build as build_module
from multiflora_engine.build import BuiltEngine
from multiflora_engine.cache.cache_admin import CacheAdmin
from multiflora_engine.models.errors import ModelError
from multiflora_engine.offload import disk_tier
from multiflora_engine.offload.disk_tier import CONTENT_NAME
from multiflora_engine.offload.transfer_cost import TransferCost
from multiflora_engine.protocol.messages import CacheReply, CacheRequest, TierStats
from multiflora_engine.protocol.requests import GenerateRequest, TokenDelta
from multiflora_engine.protocol.sampling_params import SamplingParams

SIZES: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
BLOCK_BYTES = 2 * 2 * 2 * 16 * 16 * 4


def prompts_of(count: int, length: int = 100) -> list[list[int]]:
    generator = torch.Generator().manual_seed(11)
    return [torch.randint(0, 300, (length,), generator=generator).tolist() for _ in range(count)]


@pytest.fixture(autouse=True)
def _loading_always_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pays depends on how busy the machine is; test_transfer_cost.py has the choice."""
    monkeypatch.setattr(TransferCost, "pays", lambda *_: True)


def settled(built: BuiltEngine) -> None:
    assert built.offloading is not None
    assert built.offloading.wait_until_kept(60)


Saved = tuple[PreTrainedModel, Path]


@pytest.fixture
def model(save_model: Any) -> tuple[PreTrainedModel, Path]:
    saved: tuple[PreTrainedModel, Path] = save_model(LlamaConfig(**SIZES))
    return saved


@pytest.fixture
def folder_after_kill(tmp_path: Path) -> Callable[[], Path]:
    """What kill -9 would leave now of the folder "kv", under a name of its own."""
    numbers = itertools.count()

    def take() -> Path:
        return Path(shutil.copytree(tmp_path / "kv", tmp_path / f"killed{next(numbers)}"))

    return take


def tiers_of(built: BuiltEngine) -> dict[str, TierStats]:
    return {tier.name: tier for tier in built.engine.stats().tiers}


def test_after_a_kill_the_first_requests_find_all_and_say_the_same(
    model: Saved,
    start_engine: Any,
    ask: Any,
    check_answer: Any,
    make_adapters: Any,
    folder_after_kill: Any,
    tmp_path: Path,
) -> None:
    oracle, folder = model
    (adapter,) = make_adapters([4])
    asked = prompts_of(5)
    digests = [None] * 4 + [adapter]
    first = start_engine(folder, kv_offload_dir=str(tmp_path / "kv"))
    before = ask(first, asked, digests)
    settled(first)
    again = start_engine(folder, kv_offload_dir=str(folder_after_kill()))
    after = ask(again, asked, digests)
    assert [answer.cached_tokens for answer in after] == [96] * 5
    assert [answer.tokens for answer in after] == [answer.tokens for answer in before]
    for prompt, answer in zip(asked[:4], after, strict=False):
        check_answer(oracle, prompt, answer)
    # 96 tokens of each prompt, and what the answers filled behind them: 102 tokens, of which the last has no KV.
    assert (tiers_of(first)["disk"].stored, tiers_of(again)["disk"].loaded, tiers_of(again)["disk"].lost) == (30, 30, 0)


def test_another_identity_finds_nothing(
    model: Saved, start_engine: Any, ask: Any, save_model: Any, tmp_path: Path
) -> None:
    """Other weights, another block size, another salt: computed, and the tokens are its own."""
    _, folder = model
    kv = str(tmp_path / "kv")
    asked = prompts_of(2)
    first = start_engine(folder, kv_offload_dir=kv)
    ask(first, asked)
    settled(first)
    first.close()
    for change in ({"block_size": 8}, {"dtype": "bfloat16"}):
        other = start_engine(folder, kv_offload_dir=kv, **change)
        assert [answer.cached_tokens for answer in ask(other, asked)] == [0, 0]
        assert tiers_of(other)["disk"].loaded == 0
        other.close()


def damage(folder: Path, seed: int) -> None:
    """Eight flipped bytes all over the file of copies."""
    (file,) = folder.rglob(CONTENT_NAME)
    content = bytearray(file.read_bytes())
    for at in random.Random(seed).sample(range(len(content)), 8):
        content[at] ^= 0xFF
    file.write_bytes(content)


@pytest.mark.parametrize("what", ["flipped", "truncated", "emptied", "unreadable"])
def test_damaged_copies_are_computed_again_and_counted(
    model: Saved, start_engine: Any, ask: Any, folder_after_kill: Any, tmp_path: Path, what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    _, folder = model
    asked = prompts_of(6)
    first = start_engine(folder, kv_offload_dir=str(tmp_path / "kv"))
    before = ask(first, asked)
    settled(first)
    left = folder_after_kill()
    (file,) = left.rglob(CONTENT_NAME)
    if what == "flipped":
        damage(left, seed=4)
    elif what == "unreadable":
        monkeypatch.setattr(disk_tier.os, "preadv", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
    else:
        os.truncate(file, file.stat().st_size // 3 if what == "truncated" else 0)
    again = start_engine(folder, kv_offload_dir=str(left))
    after = ask(again, asked)
    assert [answer.tokens for answer in after] == [answer.tokens for answer in before]
    disk = tiers_of(again)["disk"]
    assert disk.lost > 0
    assert disk.loaded * 16 == sum(answer.cached_tokens for answer in after)
    assert (disk.loaded > 0) == (what in ("flipped", "truncated"))
    # What was lost is kept anew.
    monkeypatch.undo()
    settled(again)
    assert again.offloading is not None
    assert all(answer.cached_tokens == 96 for answer in ask(again, asked))


def test_a_small_pool_finds_in_host_memory_what_it_has_given_away(
    model: Saved, start_engine: Any, ask: Any, check_answer: Any, tmp_path: Path
) -> None:
    """Nine prompts through a pool for one of them; with neighbours, and preempted."""
    oracle, folder = model
    asked = prompts_of(9)
    built = start_engine(
        folder, kv_cache_memory=14 * BLOCK_BYTES, max_model_len=128, kv_offload_bytes=100 * BLOCK_BYTES,
    )  # fmt: skip
    for prompt in asked:
        ask(built, [prompt])
        settled(built)
    answers = ask(built, asked)
    for prompt, answer in zip(asked, answers, strict=True):
        check_answer(oracle, prompt, answer)
    assert [answer.cached_tokens for answer in answers] == [96] * 9
    host = tiers_of(built)["host"]
    assert (host.blocks, host.lost, host.capacity_bytes) == (9 * 6, 0, 100 * BLOCK_BYTES)
    assert host.loaded >= 8 * 6


def test_what_disk_has_and_host_memory_has_not_comes_to_host_memory(
    model: Saved, start_engine: Any, ask: Any, tmp_path: Path
) -> None:
    _, folder = model
    asked = prompts_of(2)
    kv = str(tmp_path / "kv")
    first = start_engine(folder, kv_offload_dir=kv)
    ask(first, asked)
    first.close()
    again = start_engine(folder, kv_offload_dir=kv, kv_offload_bytes=100 * BLOCK_BYTES)
    assert [answer.cached_tokens for answer in ask(again, asked)] == [96, 96]
    tiers = tiers_of(again)
    assert (tiers["disk"].loaded, tiers["host"].stored, tiers["host"].blocks) == (12, 12, 12)
    assert [*tiers] == ["host", "disk"], "the fastest first"


def test_another_salt_finds_nothing_and_what_an_operator_drops_is_gone_from_disk(
    model: Saved, start_engine: Any, tmp_path: Path
) -> None:
    _, folder = model
    built = start_engine(folder, kv_offload_dir=str(tmp_path / "kv"))
    (prompt,) = prompts_of(1)

    def cached(salt: str) -> int:
        params = SamplingParams(max_tokens=1, temperature=0.0)
        built.engine.add_request(GenerateRequest(id="r", prompt_token_ids=prompt, params=params, cache_salt=salt))
        found = [delta.cached_tokens for delta in run(built)]
        settled(built)
        return max(found)

    assert (cached("acme"), cached("other"), cached("acme")) == (0, 0, 96)
    admin = built.engine.cache_admin
    for node in ask_admin(admin, "report").nodes:
        if node.owner == "acme":
            ask_admin(admin, "drop", node.hash)
    settled(built)
    assert tiers_of(built)["disk"].blocks == 6, "the other's"
    assert (cached("acme"), cached("other")) == (0, 96)


def run(built: BuiltEngine) -> Iterator[TokenDelta]:
    while built.engine.has_work:
        yield from built.engine.step()


def ask_admin(admin: CacheAdmin, action: str, hash: str = "") -> CacheReply:
    admin.submit(CacheRequest(1, action, hash))
    while not (replies := admin.advance()):
        pass
    return replies[0]


def test_a_folder_that_cannot_be_used_is_an_error_by_name(model: Saved, start_engine: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"--kv-offload-dir .*file cannot be used.*Give a folder"):
        start_engine(model[1], kv_offload_dir=str(tmp_path / "file"))


def test_a_folder_that_has_no_room_for_a_copy_is_told_of(
    model: Saved, start_engine: Any, ask: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """As where other engines fill it: nothing is kept there, and requests are answered all the same."""
    built = start_engine(model[1], kv_offload_dir=str(tmp_path / "kv"), kv_offload_disk_bytes=BLOCK_BYTES)
    assert f"No copy of a KV block fits into --kv-offload-dir {tmp_path / 'kv'}" in caplog.text
    assert [len(answer.tokens) for answer in ask(built, prompts_of(1))] == [6]
    settled(built)
    assert tiers_of(built)["disk"].blocks == 0


def test_host_memory_is_bounded_by_what_is_free(
    model: Saved, start_engine: Any, ask: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launch line that was written for a large machine starts on a small one."""
    monkeypatch.setattr(build_module, "available_host_memory", lambda: (4 << 20) + 20 * BLOCK_BYTES)
    built = start_engine(model[1], kv_offload_bytes=64 << 30)
    assert tiers_of(built)["host"].capacity_bytes == 10 * BLOCK_BYTES
    assert "half of what is free" in caplog.text
    ask(built, prompts_of(3))
    settled(built)
    assert tiers_of(built)["host"].blocks == 10


def test_engines_of_one_host_share_what_is_free(
    model: Saved, start_engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 2 * ((4 << 20) + 20 * BLOCK_BYTES)
    monkeypatch.setattr(build_module, "available_host_memory", lambda: free)
    built = start_engine(model[1], kv_offload_bytes=64 << 30, engines_per_host=2)
    assert tiers_of(built)["host"].capacity_bytes == 10 * BLOCK_BYTES


def test_a_reset_finds_nothing_anywhere(model: Saved, start_engine: Any, ask: Any, tmp_path: Path) -> None:
    """As LLM.reset_prefix_cache does it: on the device run by run, behind it at once."""
    built = start_engine(model[1], kv_offload_dir=str(tmp_path / "kv"), kv_offload_bytes=100 * BLOCK_BYTES)
    asked = prompts_of(3)
    ask(built, asked)
    for node in ask_admin(built.engine.cache_admin, "report").nodes:
        ask_admin(built.engine.cache_admin, "drop", node.hash)
    assert built.offloading is not None
    built.offloading.clear()
    assert [tier.blocks for tier in built.engine.stats().tiers] == [0, 0]
    assert [answer.cached_tokens for answer in ask(built, asked)] == [0, 0, 0]
    settled(built)
    assert [tier.blocks for tier in built.engine.stats().tiers] == [18, 18]
